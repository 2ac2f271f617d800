"""Step beam search guided by a process reward model: keep the best partial solutions, extend, score, repeat.

Snell et al. 2024 (arXiv 2408.03314), section 5.2: from each of the `beams` best prefixes sample `width` next steps,
score them, keep the best. The generator is a callable, so any sampler serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from reward_models.score import StepScores

# problem, prefixes (lists of steps), how many next steps for each -> for each prefix the proposed (step, finished)
Propose = Callable[[str, Sequence[Sequence[str]], int], Sequence[Sequence[tuple[str, bool]]]]


class Judge(Protocol):
    """What scores prefixes; a `Scorer` does."""

    def score(self, problem: str, solutions: Sequence[Sequence[str]]) -> list[StepScores]: ...


@dataclass
class Beam:
    """A solution so far, with its score by the judge."""

    steps: list[str] = field(default_factory=list)
    score: float = 0.0
    step_scores: list[float] = field(default_factory=list)
    finished: bool = False


def beam_search(
    problem: str, propose: Propose, judge: Judge, *, beams: int = 4, width: int = 4, max_steps: int = 40
) -> list[Beam]:
    """The `beams` best solutions, best first; finished ones keep their place and compete with longer ones.

    Ends when every beam is finished or `max_steps` is reached; unfinished beams are then returned as such. The same
    text proposed twice is kept once. Deterministic if `propose` is.

    Raises:
        ValueError: sizes below 1, or a proposer that returns another number of lists than it got prefixes.
    """
    if min(beams, width, max_steps) < 1:
        raise ValueError(f"beams {beams}, width {width}, max_steps {max_steps}: each must be at least 1")
    kept = [Beam()]
    for depth in range(max_steps):
        open_beams = [beam for beam in kept if not beam.finished]
        if not open_beams:
            break
        # the first round has one prefix, so it asks for as many steps as later rounds get together
        count = width * beams if depth == 0 else width
        proposals = propose(problem, [beam.steps for beam in open_beams], count)
        if len(proposals) != len(open_beams):
            raise ValueError(f"the proposer returned {len(proposals)} lists for {len(open_beams)} prefixes")
        grown: dict[tuple[str, ...], bool] = {}
        for beam, proposed in zip(open_beams, proposals, strict=True):
            for step, finished in proposed:
                grown.setdefault((*beam.steps, step), finished)
        if not grown:
            break
        scores = judge.score(problem, [list(steps) for steps in grown])
        candidates = [beam for beam in kept if beam.finished]
        for (steps, finished), scored in zip(grown.items(), scores, strict=True):
            if not scored.skipped:
                candidates.append(Beam(list(steps), scored.score, scored.steps, finished))
        kept = sorted(candidates, key=lambda beam: -beam.score)[:beams] or kept
        if not candidates:
            break
    return kept
