"""Where metrics go besides metrics.jsonl: Weights & Biases, TensorBoard, trackio. None of them can stop a run."""

from __future__ import annotations

import importlib.util
import json
import netrc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.progress import console

Rows = list[dict[str, Any]]
STEP = "step"  # x axis in wandb, whose own counter drops what goes back: rounds of DPO and ReST-EM count anew
# what wandb shows of a metric beside its curve; the last value of all others
SUMMARIES = {"train/loss": "min", "eval/accuracy_easy": "max", "objective/scores": "max"}
TABLE_ROWS = 1000  # the newest rows of a table that are sent


@dataclass(frozen=True)
class About:
    """The stage whose metrics are mirrored."""

    recipe: str
    stage: str
    kind: str
    seed: int
    folder: Path
    config: Mapping[str, Any]

    @property
    def title(self) -> str:
        return f"{self.stage}-seed{self.seed}"


class Mirror(Protocol):
    """A service, or files of one, that shows metrics."""

    def log(self, row: Mapping[str, Any], step: int | None) -> None: ...

    def attach(self, record: Mapping[str, Any]) -> None: ...

    def table(self, name: str, rows: Rows) -> None: ...

    def close(self) -> None: ...


class Mirrors:
    """All that were asked for. One that fails is left out from then on, and said to be."""

    def __init__(self, makers: Mapping[str, Callable[[], Mirror]] | None = None) -> None:
        self._alive: dict[str, Mirror] = {}
        for name, make in (makers or {}).items():
            with self._careful(name):
                self._alive[name] = make()

    def each(self, act: Callable[[Mirror], None]) -> None:
        for name, mirror in list(self._alive.items()):
            with self._careful(name):
                act(mirror)

    @contextmanager
    def _careful(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a service says, the training is worth more
            self._alive.pop(name, None)
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            console.print(
                f"{name} is left out from here on ({first[:200]}); metrics.jsonl has everything", markup=False
            )


class WandbMirror:
    """A run of Weights & Biases for one stage, grouped by recipe."""

    def __init__(self, about: About, project: str, mode: str) -> None:
        import wandb

        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=project,
            mode=mode,  # type: ignore[arg-type]
            group=about.recipe,
            name=about.title,
            job_type=about.kind,
            dir=str(about.folder),
            config=dict(about.config),
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        for name, summary in SUMMARIES.items():
            self._run.define_metric(name, step_metric=STEP, summary=summary)
        self._offset, self._last = 0, 0

    def log(self, row: Mapping[str, Any], step: int | None) -> None:
        """Rounds follow one another, as in the curves of the report."""
        if step is not None:
            self._offset += self._last if step < self._last else 0
            self._last = step
        self._run.log({**row, STEP: self._offset + self._last})

    def attach(self, record: Mapping[str, Any]) -> None:
        self._run.config.update({"manifest": json.loads(json.dumps(record, default=str))}, allow_val_change=True)

    def table(self, name: str, rows: Rows) -> None:
        columns: list[str | int] = list(dict.fromkeys(key for row in rows for key in row))
        # a table has one type a column: lists of step scores become text
        cells = [[_cell(row.get(str(key))) for key in columns] for row in rows]
        self._run.log({name: self._wandb.Table(columns=columns, data=cells)})

    def close(self) -> None:
        self._run.finish()


class TensorBoardMirror:
    """Event files in the stage's folder: `tensorboard --logdir RUN_FOLDER` shows all stages."""

    def __init__(self, about: About) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(about.folder / "tensorboard"))
        self._writer.add_text("settings", _as_code(dict(about.config)))
        self._last = 0

    def log(self, row: Mapping[str, Any], step: int | None) -> None:
        self._last = self._last if step is None else step
        for name, value in row.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, self._last)

    def attach(self, record: Mapping[str, Any]) -> None:
        self._writer.add_text("manifest", _as_code(record))

    def table(self, name: str, rows: Rows) -> None:
        for number, row in enumerate(rows[-20:]):  # texts are shown one by one
            self._writer.add_text(name, _as_code(row), number)

    def close(self) -> None:
        self._writer.close()


class TrackioMirror:
    """A run of trackio, in its local database: `trackio show --project RECIPE`."""

    def __init__(self, about: About) -> None:
        import trackio

        self._trackio: Any = trackio
        self._trackio.init(
            project=about.recipe,
            name=about.title,
            group=about.stage,
            config=json.loads(json.dumps(dict(about.config), default=str)),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, row: Mapping[str, Any], step: int | None) -> None:
        self._trackio.log({name: value for name, value in row.items() if value is not None}, step=step)

    def attach(self, record: Mapping[str, Any]) -> None:
        pass  # it has no place for a record after the start; done.json has it

    def table(self, name: str, rows: Rows) -> None:
        import pandas

        frame = pandas.DataFrame([{key: _cell(value) for key, value in row.items()} for row in rows])
        self._trackio.log({name: self._trackio.Table(dataframe=frame)})

    def close(self) -> None:
        self._trackio.finish()


def _cell(value: Any) -> Any:
    return " ".join(f"{number:.3f}" for number in value) if isinstance(value, list) else value


def _as_code(value: Any) -> str:
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    return "".join(f"    {line}\n" for line in text.splitlines())  # an indented block of Markdown


def asked_for(settings: Any) -> tuple[str, ...]:
    """The mirrors that a recipe asks for: `report_to`, and wandb where it has settings of its own."""
    own = ("wandb",) if settings.wandb is not None and settings.wandb.mode != "disabled" else ()
    return tuple(dict.fromkeys((*settings.report_to, *own)))


def check_mirrors(settings: Any) -> None:
    """See, before the first stage, that what is asked for is installed; a missing key makes wandb offline, aloud.

    Raises:
        ConfigError: a package is not installed.
    """
    for name in asked_for(settings):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"the recipe asks for {name}, which is not installed; run `pip install 'rlhf_e2h[{name}]'`, or leave "
                "it out: report_to=[] wandb=null"
            )
    if "wandb" in asked_for(settings) and settings.wandb and settings.wandb.mode != wandb_mode(settings):
        console.print(
            "wandb mode online needs a key: `wandb login`, WANDB_API_KEY, or wandb.mode=offline; this run is kept "
            "offline, and `wandb sync` can send it later",
            markup=False,
        )


def wandb_mode(settings: Any) -> str:
    """As set, but a run that has no key is kept offline."""
    mode = settings.wandb.mode if settings.wandb else "offline"
    return "offline" if mode == "online" and not has_wandb_key() else mode


def has_wandb_key() -> bool:
    """Whether an account of the server of WANDB_BASE_URL is known here."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    files = [os.environ.get("NETRC", "~/.netrc"), "~/_netrc"]
    return any(_has_entry(Path(file).expanduser(), host) for file in files)


def _has_entry(file: Path, host: str) -> bool:
    try:
        return host in netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False


def open_mirrors(settings: Any, about: About) -> Mirrors:
    """What a recipe asks for, opened for a stage."""
    makers: dict[str, Callable[[], Mirror]] = {}
    for name in asked_for(settings):
        if name == "wandb":
            project = settings.wandb.project if settings.wandb else "rlhf_e2h"
            makers[name] = partial(WandbMirror, about, project, wandb_mode(settings))
        elif name == "tensorboard":
            makers[name] = partial(TensorBoardMirror, about)
        else:
            makers[name] = partial(TrackioMirror, about)
    return Mirrors(makers)
