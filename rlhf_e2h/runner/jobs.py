"""Stages that do not wait for one another, at the same time: each in a process of its own.

A stage starts as soon as what it reads is finished; of those that can, the one with the longest way to the end first.
A stage that fails lets the running ones finish, so that their work is kept, and no other starts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.progress import Progress

from reward_models.causes import say
from rlhf_e2h.parallel import gpus
from rlhf_e2h.runner import progress
from rlhf_e2h.runner.config import ConfigError, StageError
from rlhf_e2h.runner.quiet import quiet_libraries
from rlhf_e2h.runner.recipe import Recipe, StageSpec, load_recipe
from rlhf_e2h.runner.runs import run_stage
from rlhf_e2h.runner.store import Store, seeds_read, stage_seed

Key = tuple[str, int]  # stage and the seed that it sees
_HEAVY = ["torch", "transformers", "trl", "rlhf_e2h.stages.ppo"]  # imported once, not once a stage


@dataclass
class _Job:
    name: str
    process: BaseProcess
    connection: Connection
    task: Any  # its line in the display
    gpu: str | None


def run_at_once(
    recipe: Recipe,
    todo: list[tuple[StageSpec, int]],
    jobs: int,
    finished: Callable[[StageSpec, int], bool],
    report: Callable[[StageSpec, int], None],
) -> None:
    """Run (stage, seed) pairs, up to `jobs` of them at a time.

    Args:
        todo: pairs in an order in which inputs come first; inputs that are not among them must be finished.
        finished: says of a pair whose inputs are complete whether it is finished already; then it is not run.
        report: called after each pair that was run.

    Raises:
        ConfigError: a stage ended with an error that has a sentence.
        StageError: a stage ended with another error, or its process was killed.
    """
    waiting = {(spec.name, stage_seed(spec, seed)): (spec, seed) for spec, seed in todo}
    running: dict[Key, _Job] = {}
    errors: list[Exception] = []
    context, devices = _context(), gpus.Shared(gpus.visible())
    with progress.stage_bars() as display:
        try:
            while running or (waiting and not errors):
                for key in _ready(recipe, waiting, running) if not errors else []:
                    if len(running) >= jobs:
                        break
                    spec, seed = waiting[key]
                    if finished(spec, seed):
                        del waiting[key]
                        break  # what it held up may come before the rest
                    running[key] = _start(context, recipe, spec, seed, display, devices.take())
                for key, error in _listen(running, display):
                    devices.give_back(running.pop(key).gpu)
                    spec, seed = waiting.pop(key)
                    if error:
                        errors.append(error)
                    else:
                        report(spec, seed)
        finally:
            for job in running.values():  # after Ctrl-C; they resume from their last checkpoint
                job.process.terminate()
    if errors:
        raise errors[0]


def _ready(recipe: Recipe, waiting: dict[Key, tuple[StageSpec, int]], running: dict[Key, _Job]) -> list[Key]:
    """Pairs whose inputs are there and that are not running, those that most others wait for first."""

    def inputs(spec: StageSpec, seed: int) -> list[Key]:
        upstream = [recipe.stages[name] for name in spec.upstream()]
        return [(u.name, stage_seed(u, s)) for u in upstream for s in seeds_read(recipe, spec, u, seed)]

    urgency = _urgency(recipe)
    free = [key for key, pair in waiting.items() if key not in running and not any(i in waiting for i in inputs(*pair))]
    return sorted(free, key=lambda key: urgency[key[0]], reverse=True)


def _urgency(recipe: Recipe) -> dict[str, tuple[int, int]]:
    """For each stage the length of the longest chain of stages that wait for it, and the number of all that do."""
    depth = dict.fromkeys(recipe.stages, 0)
    waiting: dict[str, set[str]] = {name: set() for name in recipe.stages}
    for name, spec in reversed(recipe.stages.items()):
        for upstream in spec.upstream():
            depth[upstream] = max(depth[upstream], depth[name] + 1)
            waiting[upstream] |= {name} | waiting[name]
    return {name: (depth[name], len(waiting[name])) for name in recipe.stages}


def _context() -> Any:
    """Forked from a server that has imported the libraries where that is safe, else started afresh."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_HEAVY)
    return context


def _start(context: Any, recipe: Recipe, spec: StageSpec, seed: int, display: Progress, gpu: str | None) -> _Job:
    ours, theirs = context.Pipe()
    device = {} if gpu is None else {gpus.VISIBLE: gpu}
    here = (os.getcwd(), {**os.environ, **device})  # the server that forks keeps those of its start
    arguments = (theirs, here, recipe.folder, recipe.overrides, spec.name, seed)
    process = context.Process(target=_work, args=arguments, name=spec.name)
    process.start()
    theirs.close()  # or its end would never be seen
    name = spec.name + (f" (seed {seed})" if len(recipe.settings.seeds) > 1 else "")
    return _Job(name, process, ours, display.add_task(f"{name}: starting", total=None, unit=spec.kind), gpu)


def _listen(running: dict[Key, _Job], display: Progress) -> list[tuple[Key, Exception | None]]:
    """Show what the processes say; returns those that have ended, with the error if it was one."""
    by_connection = {job.connection: (key, job) for key, job in running.items()}
    ended: list[tuple[Key, Exception | None]] = []
    for connection in wait(list(by_connection), timeout=1.0):
        assert isinstance(connection, Connection)
        key, job = by_connection[connection]
        try:
            kind, *content = connection.recv()
        except EOFError:
            job.process.join()
            kind, content = "failed", [f"{job.name}: {ending(job.process.exitcode)}", False]
        if kind == "progress":
            description, completed, total, unit = content
            text = f"{job.name}: {description}"
            display.update(job.task, description=text, completed=completed, total=total, unit=unit)
            continue
        display.remove_task(job.task)
        ended.append((key, _as_error(*content) if kind == "failed" else None))
        job.process.join()
    return ended


def _as_error(sentence: str, foreseen: bool) -> Exception:
    return ConfigError(sentence) if foreseen else StageError(sentence)


def ending(code: int | None) -> str:
    """How a process ended that did not say so itself."""
    if code == -signal.SIGKILL:
        return (
            "its process was killed (signal 9), as a system does that runs out of memory: lower "
            "per_device_train_batch_size or jobs, and start the same command again; it resumes"
        )
    return f"its process ended with exit code {code}; what it said stands above"


def _work(
    connection: Connection,
    here: tuple[str, dict[str, str]],
    folder: Path,
    overrides: list[str],
    name: str,
    seed: int,
) -> None:
    """What the process of a stage does."""
    os.chdir(here[0])
    os.environ.update(here[1])
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the process that waits; it ends this one
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()
    quiet_libraries()
    progress.send_progress(lambda *content: connection.send(("progress", *content)))
    try:
        recipe = load_recipe(folder, overrides)
        run_stage(Store(recipe), recipe.stages[name], seed)
    except Exception as error:
        sentence, foreseen = say(error)
        if not foreseen or os.environ.get("E2H_TRACEBACK"):
            traceback.print_exc()
        connection.send(("failed", sentence, foreseen))
    else:
        connection.send(("finished",))


def _end_with_parent(connection: Connection) -> None:
    """The run folder is free when the process that locked it has died, even by `kill -9`: nobody may write to it."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os._exit(1)
