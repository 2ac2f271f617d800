"""How many problems, solutions and tokens a stage will see: counted where the data is there, else assumed aloud."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_e2h.runner.recipe import Recipe, StageSpec

# problems (train, validation, test) of sources that are not counted: MATH in the paper's split, GSM8K, and solutions of
# the sets of solutions
ASSUMED = {
    "math": (11_500, 500, 500),
    "gsm8k": (7_000, 473, 1_319),
    "apps": (5_000, 0, 5_000),
    "jsonl": (10_000, 500, 500),
    "prm800k": (24_000, 0, 0),
    "metamath": (390_000, 0, 0),
    "shepherd": (400_000, 0, 0),
}
EASY_SHARE = 0.45  # of MATH's train problems, levels 1 to 3
STEPWISE = {"prm800k": 90_000, "shepherd": 400_000, "metamath": 390_000}  # records with step labels
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


def is_procedural(recipe: Recipe) -> bool:
    return any(s.kind == "prepare" and s.config.source == "procedural" for s in recipe.stages.values())


def token_numbers(recipe: Recipe, prompt: int | None, solution: int | None) -> Numbers:
    """Tokens of a problem and its solution: as given, or typical ones of the recipe's kind of text."""
    usual = (45, 60) if is_procedural(recipe) else (110, 260)
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
        count = ASSUMED["jsonl"][place]
        numbers.assume(f"{count:,} {split} problems in {reference}")
        return min(count, limit or count)
    config = spec.config
    per_level = getattr(config, f"{split}_per_level") or []
    if per_level:
        count = sum(per_level[level - 1] for level in levels or range(1, 6))
        return min(count, limit or count)
    count = getattr(config, f"{split}_size") or _counted(config, split)
    if not count:
        count = ASSUMED[config.source][place]
        numbers.assume(f"{count:,} {split} problems or solutions in '{spec.name}'")
    if levels is not None and set(levels) != {1, 2, 3, 4, 5}:
        share = EASY_SHARE if set(levels) <= {1, 2, 3} else 1 - EASY_SHARE
        count = round(count * share)
        numbers.assume(f"levels {levels} are {share:.0%} of them")
    return min(count, limit or count)


def easy_labels(recipe: Recipe, reference: str, labels: str, numbers: Numbers) -> int:
    """Solutions that supervised training reads."""
    spec = source_of(recipe, reference)
    if spec and spec.config.source in ("prm800k", "metamath", "shepherd"):
        count = ASSUMED[spec.config.source][0]
        numbers.assume(
            f"{count:,} solutions in '{spec.name}'" + (f", {EASY_SHARE:.0%} easy" if labels == "easy" else "")
        )
        return round(count * (EASY_SHARE if labels == "easy" else 1))
    return problems(recipe, reference, "train", [1, 2, 3] if labels == "easy" else None, None, numbers)


def stepwise(recipe: Recipe, reference: str, numbers: Numbers) -> int:
    """Records with step labels."""
    spec = source_of(recipe, reference)
    count = STEPWISE.get(spec.config.source, 10_000) if spec else 10_000
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
