"""metrics.jsonl, its mirror in wandb, and progress bars with rate and time left."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True, highlight=False, soft_wrap=True)


class Tracker:
    """Appends metrics to metrics.jsonl, and to wandb if a run is given. A run is complete without wandb."""

    def __init__(self, folder: Path | None, wandb_run: Any = None) -> None:
        """Without a folder nothing is written: what all processes but the main one do."""
        self._file = (folder / "metrics.jsonl" if folder else Path(os.devnull)).open("a", encoding="utf-8")
        self._wandb = wandb_run
        self._tables: dict[str, list[dict[str, Any]]] = {}

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Record numbers (or short texts) under their names; not-a-number becomes null."""
        row: dict[str, Any] = {} if step is None else {"step": step}
        for name, value in metrics.items():
            value = value.item() if hasattr(value, "item") else value
            row[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._wandb:
            self._wandb.log({key: value for key, value in row.items() if key != "step"}, step=step)

    def row(self, table: str, row: dict[str, Any]) -> None:
        """Add a row to a table of wandb, which is sent when the run ends; the stage keeps its own file of them."""
        if self._wandb:
            self._tables.setdefault(table, []).append(row)

    def attach(self, record: dict[str, Any]) -> None:
        """Put the stage's manifest beside its settings in wandb."""
        if self._wandb:
            self._wandb.config.update({"manifest": json.loads(json.dumps(record, default=str))}, allow_val_change=True)

    def close(self) -> None:
        self._file.close()
        if self._wandb:
            for name, rows in self._tables.items():
                self._wandb.log({name: _table(rows)})
            self._wandb.finish()


def _table(rows: list[dict[str, Any]]) -> Any:
    import wandb

    columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
    # a table has one type a column: lists of step scores become text
    cells = [[_cell(row.get(str(name))) for name in columns] for row in rows[-1000:]]
    return wandb.Table(columns=columns, data=cells)


def _cell(value: Any) -> Any:
    return " ".join(f"{number:.3f}" for number in value) if isinstance(value, list) else value


def start_wandb(
    settings: Any, recipe: str, stage: str, kind: str, seed: int, folder: Path, config: dict[str, Any]
) -> Any:
    """A wandb run for one stage, grouped by recipe, or None without settings.

    Raises:
        ValueError: wandb is asked for but not installed.
    """
    if settings is None or settings.mode == "disabled":
        return None
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "the recipe asks for wandb, which is not installed; run `pip install 'rlhf_e2h[wandb]'`"
        ) from None
    return wandb.init(
        project=settings.project,
        mode=settings.mode,
        group=recipe,
        name=f"{stage}-seed{seed}",
        job_type=kind,
        dir=str(folder),
        config=config,
        reinit="finish_previous",
        settings=wandb.Settings(silent=True, console="off"),
    )


class _Rate(ProgressColumn):
    """Items a second, in the unit of the task."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {task.fields['unit']}/s" if speed else "", style="dim")


class Bar:
    """What a stage sees of a progress bar."""

    def __init__(self, show: Callable[[float], None]) -> None:
        self._show, self.completed = show, 0.0

    def advance(self, n: float = 1) -> None:
        self.update(self.completed + n)

    def update(self, completed: float) -> None:
        self.completed = completed
        self._show(completed)


_send: Callable[[str, float, float, str], None] | None = None  # where another process shows our progress


def send_progress(send: Callable[[str, float, float, str], None]) -> None:
    """From now on progress bars of this process go to `send(description, completed, total, unit)`."""
    global _send
    _send = send


def stage_bars() -> Progress:
    """A display of bars with rate and time left on a terminal; silent where output goes to a file."""
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


@contextmanager
def progress_bar(total: float, description: str, unit: str = "items", show: bool = True) -> Iterator[Bar]:
    """One bar with rate and time left."""
    if not show:
        yield Bar(lambda completed: None)
    elif _send:
        yield Bar(_at_most_often(_send, description, total, unit))
    else:
        with stage_bars() as progress:
            task = progress.add_task(description, total=total, unit=unit)
            yield Bar(lambda completed: progress.update(task, completed=completed))


def _at_most_often(
    send: Callable[[str, float, float, str], None], description: str, total: float, unit: str, seconds: float = 0.2
) -> Callable[[float], None]:
    last = -math.inf

    def show(completed: float) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            send(description, completed, total, unit)

    return show
