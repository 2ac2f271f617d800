"""How many problems, solutions and tokens a stage will see: counted where the data is there, else assumed aloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_e2h.data.sources import Source, find_source
from rlhf_e2h.runner.recipe import Recipe, StageSpec

UNKNOWN = Source("")  # what is assumed of data that no stage of the recipe prepares
EASY_SHARE = 0.45  # of MATH's train problems, levels 1 to 3
STEP_TARGETS = 0.58  # steps rated +1 for each record with step labels: 18,430 of 31,749 in PRM800K's phase 1


@dataclass
class Numbers:
    """Tokens of a problem and of a solution, and what was assumed on the way."""

    prompt: int
    solution: int
    assumed: list[str] = field(default_factory=list)

    def assume(self, text: str) -> None:
        if text not in self.assumed:
            self.assumed.append(text)


def source_of(recipe: Recipe, reference: str) -> StageSpec | None:
    """The prepare stage behind a `data` or `records` reference."""
    name = reference[1:].split("/")[0] if reference.startswith("@") else ""
    spec = recipe.stages.get(name)
    return spec if spec and spec.kind == "prepare" else None


def token_numbers(recipe: Recipe, prompt: int | None, solution: int | None) -> Numbers:
    """Tokens of a problem and its solution: as given, or typical ones of the recipe's first source."""
    named = (find_source(s.config.source) for s in recipe.stages.values() if s.kind == "prepare")
    usual = next(named, UNKNOWN).tokens
    numbers = Numbers(prompt or usual[0], solution or usual[1])
    if prompt is None or solution is None:
        numbers.assume(
            f"a problem has {numbers.prompt} tokens, a solution {numbers.solution} (--tokens PROMPT,SOLUTION)"
        )
    return numbers


def problems(
    recipe: Recipe, reference: str, split: str, levels: list[int] | None, limit: int | None, numbers: Numbers
) -> int:
    """Problems of a split, of some levels, at most `limit`."""
    spec = source_of(recipe, reference)
    place = ("train", "validation", "test").index(split)
    if spec is None:
        count = UNKNOWN.counts[place]
        numbers.assume(f"{count:,} {split} problems in {reference}")
        return min(count, limit or count)
    config = spec.config
    per_level = getattr(config, f"{split}_per_level") or []
    if per_level:
        count = sum(per_level[level - 1] for level in levels or range(1, 6))
        return min(count, limit or count)
    count = getattr(config, f"{split}_size") or _counted(config, split)
    if not count:
        count = find_source(config.source).counts[place]
        numbers.assume(f"{count:,} {split} problems or solutions in '{spec.name}'")
    if levels is not None and set(levels) != {1, 2, 3, 4, 5}:
        share = EASY_SHARE if set(levels) <= {1, 2, 3} else 1 - EASY_SHARE
        count = round(count * share)
        numbers.assume(f"levels {levels} are {share:.0%} of them")
    return min(count, limit or count)


def easy_labels(recipe: Recipe, reference: str, labels: str, numbers: Numbers) -> int:
    """Solutions that supervised training reads."""
    spec = source_of(recipe, reference)
    if spec and (source := find_source(spec.config.source)).solutions:
        count = source.counts[0]
        numbers.assume(
            f"{count:,} solutions in '{spec.name}'" + (f", {EASY_SHARE:.0%} easy" if labels == "easy" else "")
        )
        return round(count * (EASY_SHARE if labels == "easy" else 1))
    return problems(recipe, reference, "train", [1, 2, 3] if labels == "easy" else None, None, numbers)


def stepwise(recipe: Recipe, reference: str, numbers: Numbers) -> int:
    """Records with step labels."""
    spec = source_of(recipe, reference)
    count = (find_source(spec.config.source) if spec else UNKNOWN).step_records
    numbers.assume(f"{count:,} stepwise records in {reference}")
    return count


def step_targets(recipe: Recipe, reference: str, labels: str, numbers: Numbers) -> int:
    """Single steps that fine-tuning with `targets: steps` reads."""
    share = EASY_SHARE if labels == "easy" else 1.0
    numbers.assume(
        f"{STEP_TARGETS} steps rated +1 for each stepwise record" + (f", {share:.0%} easy" if share < 1 else "")
    )
    return round(stepwise(recipe, reference, numbers) * STEP_TARGETS * share)


def _counted(config: Any, split: str) -> int:
    """Lines of the file behind a split, where it is there and is all of the split."""
    path = Path(str(getattr(config, split, None) or ""))
    if config.split != "files" or path.suffix != ".jsonl" or not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
