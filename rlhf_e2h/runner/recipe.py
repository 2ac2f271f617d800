"""A recipe: a folder of numbered YAML files, one a stage, in the order in which data flows.

`recipe.yaml` beside them holds the name, the seeds, the run folder and the variables that several stages share.
A stage is called by its file name without number: `2_sft_easy.yaml` is `sft_easy`, and others read it as "@sft_easy".
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_e2h.runner import packaged
from rlhf_e2h.runner.config import (
    ConfigError,
    build,
    input_fields,
    nearest,
    parse_override,
    read_yaml,
    set_dotted,
    substitute,
)
from rlhf_e2h.runner.traits import STAGES, Traits
from rlhf_e2h.text_formats import FormatSettings

_FILE = re.compile(r"\d+_(\w+)\.yaml")


MIRRORS = ("wandb", "tensorboard", "trackio")  # what report_to may name


@dataclass
class Wandb:
    """Mirroring to Weights & Biases; everything is in metrics.jsonl all the same. Online needs a login."""

    project: str = "rlhf_e2h"
    mode: str = "offline"  # online, offline or disabled


@dataclass
class RecipeSettings:
    """What `recipe.yaml` may hold."""

    name: str
    description: str = ""
    seeds: list[int] = field(default_factory=lambda: [0])
    runs: str | None = None  # run folder; runs/NAME if not given
    jobs: int = 1  # stages at once, each in a process of its own; with --launch one after the other
    threads: int | None = None  # of the CPU for a stage; all cores if not given. Sums in another order differ a little
    report_to: Any = ()  # wandb, tensorboard or trackio, or a list of them: mirrors of metrics.jsonl
    wandb: Wandb | None = None  # its project and mode; given, wandb is asked for
    format: FormatSettings | None = None  # text format of all stages that have one and set no other
    variables: dict[str, Any] = field(default_factory=dict)  # used as ${name} in stage files
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)  # values of variables for each value of `size`

    def __post_init__(self) -> None:
        named = [self.report_to] if isinstance(self.report_to, str) else list(self.report_to or ())
        self.report_to = tuple(name for name in named if name != "none")
        for name in self.report_to:
            if name not in MIRRORS:
                raise ValueError(f"report_to names {name!r}; allowed: {', '.join(MIRRORS)}, none, or a list of them")
        if self.wandb and self.wandb.mode not in ("online", "offline", "disabled"):
            raise ValueError(f"wandb.mode is {self.wandb.mode!r}; allowed: online, offline, disabled")
        for name in ("jobs", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")


@dataclass
class StageSpec:
    """One stage of a recipe, its settings checked."""

    name: str
    kind: str
    file: Path
    config: Any
    module: ModuleType
    optional: bool
    push_to_hub: str | None = None  # OWNER/NAME: where the model goes when it is finished

    @property
    def traits(self) -> Traits:
        return STAGES[self.kind]

    def upstream(self) -> list[str]:
        """Names of the stages whose output this one reads."""
        references = [r for values in input_fields(self.config).values() for r in values]
        return sorted({r[1:].split("/")[0] for r in references if r.startswith("@")})


@dataclass
class Recipe:
    """A whole recipe, every stage checked, in an order in which inputs come first."""

    folder: Path
    settings: RecipeSettings
    stages: dict[str, StageSpec]
    overrides: list[str]

    @property
    def run_folder(self) -> Path:
        return Path(self.settings.runs or f"runs/{self.settings.name}")


def load_recipe(folder: str | Path, overrides: list[str] | None = None, only_kind: str | None = None) -> Recipe:
    """Read and check a recipe folder, or the recipe around one stage file, before anything runs.

    An override names a stage setting (`sft_easy.limit=100`), a key of recipe.yaml (`seeds=[0,1]`) or a variable
    (`base=...`); where `folder` is a stage file, the bare name of one of its settings will do (`limit=100`).

    Raises:
        FileNotFoundError: no such folder, or no stage files in it.
        ConfigError: anything that is wrong in a file or an override.
    """
    place = packaged.find("recipes", folder)
    stage_file = place if place.suffix == ".yaml" else None
    place = place.parent if stage_file else place
    files = _stage_files(place)
    if stage_file and stage_file.name not in {file.name for file in files.values()}:
        raise FileNotFoundError(f"{stage_file}: no such stage file; the recipe has {', '.join(files)}")
    common = read_yaml(place / "recipe.yaml")
    _choose_size(common, overrides or [], place / "recipe.yaml")
    raw = {name: read_yaml(file) for name, file in files.items()}
    current = next((name for name, file in files.items() if stage_file and file.name == stage_file.name), None)
    for text in overrides or []:
        _apply_override(text, common, raw, current)
    settings = build(RecipeSettings, common, str(place / "recipe.yaml"))
    variables = substitute(settings.variables, {}, str(place / "recipe.yaml"))
    given = {"format": common["format"]} if common.get("format") is not None else {}
    shared = substitute(given, variables, str(place / "recipe.yaml"))
    stages = {
        name: _build_stage(name, files[name], substitute(data, variables, str(files[name])), shared)
        for name, data in raw.items()
    }
    if current and only_kind and stages[current].kind != only_kind:
        raise ConfigError(
            f"{stage_file}: is a {stages[current].kind!r} stage, not {only_kind!r}; run `e2h {stages[current].kind}`"
        )
    return Recipe(place, settings, _in_order(stages), list(overrides or []))


def stage_name(file: str | Path) -> str:
    """The stage that a file of a recipe describes."""
    match = _FILE.fullmatch(Path(file).name)
    if not match:
        raise ConfigError(f"{file}: stage files are called NUMBER_NAME.yaml, for example 2_sft_easy.yaml")
    return match[1]


def _stage_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        known = ", ".join(packaged.names("recipes"))
        raise FileNotFoundError(f"{folder}: no such recipe folder; these ship: {known}")
    files = sorted(
        (f for f in folder.glob("*.yaml") if _FILE.fullmatch(f.name)), key=lambda f: (int(f.name.split("_")[0]), f.name)
    )
    if not files:
        raise FileNotFoundError(f"{folder}: no stage files (NUMBER_NAME.yaml) in this folder")
    return {stage_name(file): file for file in files}


def _choose_size(common: dict[str, Any], overrides: list[str], where: Path) -> None:
    """Give the variables the values of the size that is asked for, before anything overrides them one by one.

    Raises:
        ConfigError: a size that the recipe does not have.
    """
    sizes, variables = common.get("sizes") or {}, common.setdefault("variables", {})
    asked = [value for key, value in map(parse_override, overrides) if key == "size"]
    size = asked[-1] if asked else variables.get("size")
    if not sizes:
        return
    if size not in sizes:
        raise ConfigError(f"{where}: size is {size!r}; allowed: {', '.join(sizes)}")
    variables |= {"size": size} | sizes[size]


def _apply_override(text: str, common: dict[str, Any], raw: dict[str, dict[str, Any]], current: str | None) -> None:
    key, value = parse_override(text)
    head, _, rest = key.partition(".")
    if head in raw and rest:
        set_dotted(raw[head], rest, value)
    elif key == "seed":
        common["seeds"] = [value]
    elif head in RecipeSettings.__dataclass_fields__:
        set_dotted(common, key, value)
    elif head in common.get("variables", {}):
        set_dotted(common["variables"], key, value)
    elif current:
        set_dotted(raw[current], key, value)
    else:
        known = [*raw, *RecipeSettings.__dataclass_fields__, *common.get("variables", {})]
        raise ConfigError(f"override {text!r}: {head!r} is not a stage, recipe key or variable; {nearest(head, known)}")


def _build_stage(name: str, file: Path, data: dict[str, Any], shared: dict[str, Any]) -> StageSpec:
    """A stage; `shared` are settings of recipe.yaml that hold where the stage has them and sets no other."""
    data = dict(data)
    kind = data.pop("stage", None)
    if kind not in STAGES:
        raise ConfigError(f"{file}: `stage: {kind}` is not a stage; {nearest(str(kind), STAGES)}")
    optional, push_to_hub = bool(data.pop("optional", False)), data.pop("push_to_hub", None)
    module = importlib.import_module(STAGES[kind].module)
    data = {key: value for key, value in shared.items() if key in module.Config.__dataclass_fields__} | data
    return StageSpec(name, kind, file, build(module.Config, data, str(file)), module, optional, push_to_hub)


def _in_order(stages: dict[str, StageSpec]) -> dict[str, StageSpec]:
    ordered: dict[str, StageSpec] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ConfigError(f"stages read each other in a circle: {' -> '.join((*path, name))}")
        if name in ordered:
            return
        for needed in stages[name].upstream():
            if needed not in stages:
                raise ConfigError(
                    f"{stages[name].file}: reads '@{needed}', which is not a stage here; {nearest(needed, stages)}"
                )
            visit(needed, (*path, name))
        ordered[name] = stages[name]

    for name in stages:
        visit(name, ())
    return ordered
