"""Running a recipe: stages in order, finished ones skipped, one line each."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rich.markup import escape

from rlhf_e2h.parallel import gpus
from rlhf_e2h.runner.config import ConfigError, StageError, nearest, read_yaml
from rlhf_e2h.runner.environment import describe
from rlhf_e2h.runner.jobs import run_at_once
from rlhf_e2h.runner.mirrors import check_mirrors
from rlhf_e2h.runner.preflight import check_disk, check_four_bit, check_inputs, check_launch, launch_file
from rlhf_e2h.runner.progress import clock, console
from rlhf_e2h.runner.publish import check_publishing, publish
from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.runner.row_counts import LOSSES
from rlhf_e2h.runner.run_files import lock, read_done, write_json
from rlhf_e2h.runner.runs import run_stage
from rlhf_e2h.runner.store import Store, stage_seed


def run_recipe(recipe: Recipe, only: str | None = None, launch: str | None = None) -> Path | None:
    """Run the stages of a recipe for each of its seeds; returns the folder of the last report, if there is one.

    Args:
        only: one stage, whose inputs must be finished.
        launch: an accelerate configuration with which training stages are started.
    """
    store = Store(recipe)
    todo = planned(recipe, only)
    specs = [spec for spec, _ in todo]
    check_inputs(specs)
    check_mirrors(recipe.settings)
    check_publishing(specs)
    if launch:
        check_launch(specs, launch)
    check_four_bit(store, todo)
    check_disk(store, todo)
    with lock(store.root):
        write_json(store.root / "run.json", _about(recipe))
        store.note_places()
        started, progress = time.time(), _Progress(store, len(todo))
        if recipe.settings.jobs > 1 and len(todo) > 1 and not launch:
            run_at_once(recipe, todo, recipe.settings.jobs, progress.finished, progress.ran)
        else:
            _run_in_turn(store, todo, progress, launch)
    spent = clock(time.time() - started)
    if progress.fresh:
        console.print(f"{progress.fresh} of {len(todo)} stages run in {spent}; outputs in {recipe.run_folder}")
    else:
        console.print(f"nothing to do: all {len(todo)} stages are finished in {recipe.run_folder}")
    return progress.report


def _run_in_turn(store: Store, todo: list[tuple[StageSpec, int]], progress: _Progress, launch: str | None) -> None:
    # beside a launched stage this process must hold no GPU, so that what is not launched runs in a process of its own
    apart = bool(launch and gpus.visible())
    note = None if launch else gpus.keep_one()
    if note:
        console.print(note)
    for spec, seed in todo:
        if progress.finished(spec, seed):
            continue
        if console.is_terminal:
            console.print(f"{progress.title(spec, seed):<34} [dim]{spec.kind} ...[/dim]", end="\r")
        if launch and spec.traits.distributed:
            _launch(store, spec, seed, launch)
        elif apart:
            _call(store, spec, seed, [])
        else:
            run_stage(store, spec, seed)
        progress.ran(spec, seed)


class _Progress:
    """One line for each stage that is complete."""

    def __init__(self, store: Store, total: int) -> None:
        self._store, self._total, self._complete = store, total, 0
        self.fresh = 0
        self.report: Path | None = None  # of the last report stage

    def title(self, spec: StageSpec, seed: int) -> str:
        several = len(self._store.recipe.settings.seeds) > 1
        label = f"[{self._complete + 1}/{self._total}]"
        return f"{label:>8} {spec.name}" + (f" (seed {seed})" if several else "")

    def finished(self, spec: StageSpec, seed: int) -> bool:
        """Whether the stage was finished before; says so."""
        folder = self._store.finished(spec, seed)
        if folder:
            self._line(spec, seed, folder, "[dim]finished before[/dim]")
            publish(self._store.recipe, spec, seed, folder)  # if that failed, or was asked for only now
        return bool(folder)

    def ran(self, spec: StageSpec, seed: int) -> None:
        folder = self._store.finished(spec, seed)
        if folder is None:
            raise StageError(f"{spec.name}: its process ended without finishing the stage")
        done = read_done(folder)
        assert done is not None
        self.fresh += 1
        self._line(spec, seed, folder, f"{clock(done['seconds']):>7}  [dim]{_summary(done['results'])}[/dim]")
        for warning in done.get("warnings", []):
            console.print(f"         [yellow]warning:[/yellow] {escape(warning)}")

    def _line(self, spec: StageSpec, seed: int, folder: Path, text: str) -> None:
        console.print(f"{self.title(spec, seed):<34} {text}")
        self._complete += 1
        self.report = folder if spec.kind == "report" else self.report


def _about(recipe: Recipe) -> dict[str, Any]:
    settings = recipe.settings
    about = {"recipe": settings.name, "description": settings.description, "seeds": settings.seeds}
    return {**about, "overrides": recipe.overrides, **describe()}


def planned(recipe: Recipe, only: str | None) -> list[tuple[StageSpec, int]]:
    """(stage, seed) pairs in order: shared stages once, then seed by seed, then what spans all seeds."""
    if only and only not in recipe.stages:
        raise ConfigError(f"--only {only}: no such stage in {recipe.folder}; {nearest(only, recipe.stages)}")
    chosen = [recipe.stages[only]] if only else [s for s in recipe.stages.values() if not s.optional]
    pairs: list[tuple[StageSpec, int]] = []
    for seed in recipe.settings.seeds:
        pairs += [(s, seed) for s in chosen if not _spans_seeds(s)]
    pairs += [(s, recipe.settings.seeds[0]) for s in chosen if _spans_seeds(s)]
    unique: dict[tuple[str, int], tuple[StageSpec, int]] = {}
    for spec, seed in pairs:
        unique.setdefault((spec.name, stage_seed(spec, seed)), (spec, seed))
    return list(unique.values())


def _spans_seeds(spec: StageSpec) -> bool:
    return spec.traits.all_seeds


def _launch(store: Store, spec: StageSpec, seed: int, launch: str) -> None:
    """Start the stage on many processes."""
    file = launch_file(launch)
    launcher = ["accelerate.commands.launch", "--config_file", str(file)]
    settings = read_yaml(file)
    if settings.get("main_process_port") is None and settings.get("num_machines", 1) == 1:
        launcher += ["--main_process_port", "0"]  # a free one: of two launches on a machine one would find 29500 taken
    _call(store, spec, seed, [*launcher, "-m"])


def _call(store: Store, spec: StageSpec, seed: int, launcher: list[str]) -> None:
    """Run the stage in other processes; they share the run folder that this process has locked.

    Raises:
        RuntimeError: they failed.
    """
    stage = ["rlhf_e2h", spec.kind, str(spec.file), "--locked", *store.recipe.overrides, f"seed={seed}"]
    command = [sys.executable, "-m", *launcher, *stage]
    if subprocess.run(command, check=False).returncode:
        raise RuntimeError(f"{spec.name}: `{' '.join(command)}` failed; its messages stand above")


def _summary(results: dict[str, Any]) -> str:
    """The first four figures, and every count of rows that were lost on the way."""
    figures = {k: v for k, v in results.items() if isinstance(v, (int, float, str))}
    lost = [(k, v) for k, v in figures.items() if k in LOSSES]
    shown = [*[(k, v) for k, v in figures.items() if k not in LOSSES][:4], *lost]
    return "  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown)
