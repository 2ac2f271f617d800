"""Signs of life of a stage: a bar with rate and time left on a terminal, and lines of text everywhere else.

Every run folder has a `progress.log`, which `tail -f` follows: what starts, what has come of it and when it will be
done, every 30 seconds. The same lines go to standard error where that is not a terminal (nohup, SLURM, CI).
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(stderr=True, highlight=False, soft_wrap=True)
PROGRESS = "progress.log"
SECONDS = "E2H_PROGRESS_SECONDS"  # environment variable: time between lines
EARLY = 10.0  # the first line of work that takes longer than this comes with its first step
# the metrics that say most, the first ones first; others are in metrics.jsonl
_TELLING = re.compile(r"(^|/)(loss|kl|scores|accuracy(_easy)?|reward|rewards/\w+|grad_norm|learning_rate)$")
SHOWN = 4


@dataclass
class _Work:
    """A bar as it now stands."""

    description: str
    total: float
    unit: str
    started: float
    completed: float = 0.0
    first: tuple[float, float] | None = None  # (time, completed) of the first sign: a resumed stage jumps to it

    def sign(self, completed: float, now: float) -> bool:
        """Note what is completed; returns whether this is the first sign."""
        new = self.first is None and completed > 0
        if new:
            self.first = (now, completed)
        self.completed = completed
        return new

    def rate(self, now: float) -> float | None:
        """Items a second, or None before anything is known."""
        if self.first is None:
            return None
        since, base = self.first
        if self.completed > base:
            return (self.completed - base) / max(now - since, 1e-9)
        # What is loaded before the first of many items would make days of minutes. Until now, not until the first sign:
        # that may have come at once, for items that need no work.
        known = self.completed > 0 and self.completed * 100 >= self.total
        return self.completed / max(now - self.started, 1e-9) if known else None

    def text(self, now: float) -> str:
        said = f"{self.description} {self.completed:,.0f}/{self.total:,.0f} {self.unit}"
        rate = self.rate(now)
        if rate:
            said += f", {speed(rate, self.unit)}, {clock(max(0.0, self.total - self.completed) / rate)} left"
        return said


class Pulse:
    """Says every so often how far a stage is."""

    def __init__(self, stage: str, folder: Path, seconds: float | None = None) -> None:
        self.stage, self._file = stage, folder / PROGRESS
        self.seconds = seconds or float(os.environ.get(SECONDS, 30))
        self._started = time.monotonic()
        self._work: list[_Work] = []  # a bar may stand inside another; the inner one is shown
        self._metrics: dict[str, float] = {}
        self._ended = threading.Event()

    @contextmanager
    def beating(self) -> Iterator[Pulse]:
        """A line now, one every so often, and one at the end."""
        thread = threading.Thread(target=self._beat, daemon=True)
        self._say("started", aloud=False)
        thread.start()
        try:
            yield self
        except BaseException as error:
            self._say(f"stopped by {type(error).__name__}", aloud=False)
            raise
        else:
            self._say(f"finished in {clock(time.monotonic() - self._started)}", aloud=False)
        finally:
            self._ended.set()
            thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(self.seconds):
            self._say(self.line())

    @contextmanager
    def work(self, total: float, description: str, unit: str) -> Iterator[_Work]:
        work = _Work(description, total, unit, time.monotonic())
        self._work.append(work)
        try:
            yield work
        finally:
            self._work.remove(work)

    def sign(self, work: _Work, completed: float) -> None:
        """Progress. The first sign of long work is said at once: it tells the rate."""
        now = time.monotonic()
        if work.sign(completed, now) and now - work.started >= min(EARLY, self.seconds):
            self._say(self.line())

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Remember the numbers that say most of what was logged."""
        for name, value in metrics.items():
            if isinstance(value, int | float) and not isinstance(value, bool) and _TELLING.search(name):
                self._metrics.pop(name, None)
                self._metrics[name] = float(value)

    def line(self) -> str:
        now = time.monotonic()
        # copies: the stage itself goes on writing in its own thread
        metrics = sorted(list(self._metrics.items()), key=lambda item: _rank(item[0]))[:SHOWN]
        inner = self._work[-1:]
        shown = "".join(f", {name} {value:.4g}" for name, value in metrics)
        work = inner[0].text(now) if inner else f"running for {clock(now - self._started)}"
        return work + shown

    def _say(self, text: str, aloud: bool = True) -> None:
        line = f"{time.strftime('%H:%M:%S')} {self.stage}: {text}"
        with suppress(OSError), self._file.open("a", encoding="utf-8") as file:  # a full disk is said elsewhere
            file.write(line + "\n")
        if aloud and not console.is_terminal:
            console.print(line, markup=False)


def _rank(name: str) -> int:
    found = _TELLING.search(name)
    order = ("loss", "kl", "scores", "accuracy", "reward", "rewards", "grad_norm", "learning_rate")
    return next((rank for rank, word in enumerate(order) if found and found[2].startswith(word)), len(order))


def clock(seconds: float) -> str:
    """A time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{minutes} min {int(seconds % 60)} s" if minutes < 120 else f"{hours} h {minutes % 60} min"


class Bar:
    """What a stage sees of a progress bar."""

    def __init__(self, show: Callable[[float, float | None], None]) -> None:
        self._show, self.completed = show, 0.0

    def advance(self, n: float = 1) -> None:
        self.update(self.completed + n)

    def update(self, completed: float, total: float | None = None) -> None:
        """Progress; `total` where it is known only now."""
        self.completed = completed
        self._show(completed, total)


Send = Callable[[str, float, float, str], None]
_send: Send | None = None  # where another process shows our progress


def send_progress(send: Send) -> None:
    """From now on progress bars of this process go to `send(description, completed, total, unit)`."""
    global _send
    _send = send


def speed(rate: float, unit: str) -> str:
    """`2.5 steps/s`, and `4.0 s/step` for what takes longer than a second."""
    return f"{rate:,.1f} {unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s/{unit.removesuffix('s')}"


class _Rate(ProgressColumn):
    """Items a second, in the unit of the task."""

    def render(self, task: Task) -> Text:
        rate = task.finished_speed or task.speed
        return Text(speed(rate, task.fields["unit"]) if rate else "", style="dim")


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
def progress_bar(
    total: float, description: str, unit: str = "items", show: bool = True, pulse: Pulse | None = None
) -> Iterator[Bar]:
    """One bar with rate and time left, whose progress the stage's pulse says as well."""
    if not show:
        yield Bar(lambda completed, total: None)
        return
    with _shown(total, description, unit) as update:
        if pulse is None:
            yield Bar(update)
            return
        with pulse.work(total, description, unit) as work:

            def both(completed: float, new_total: float | None) -> None:
                work.total = new_total or work.total
                update(completed, new_total)
                pulse.sign(work, completed)

            yield Bar(both)


@contextmanager
def _shown(total: float, description: str, unit: str) -> Iterator[Callable[[float, float | None], None]]:
    if _send:
        yield _at_most_often(_send, description, total, unit)
        return
    with stage_bars() as progress:
        task = progress.add_task(description, total=total, unit=unit)
        yield lambda completed, total: progress.update(task, completed=completed, total=total)


def _at_most_often(
    send: Send, description: str, total: float, unit: str, seconds: float = 0.2
) -> Callable[[float, float | None], None]:
    last, known = -math.inf, total

    def show(completed: float, new_total: float | None) -> None:
        nonlocal last, known
        known = new_total or known
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            send(description, completed, known, unit)

    return show
