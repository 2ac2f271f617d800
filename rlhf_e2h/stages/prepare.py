"""prepare: read a source of problems, split it, and seal the hard labels.

Reads   files, folders or a hub data set with problems, levels and solutions; or nothing (`source: procedural`); or
        the solutions and step labels (`source: prm800k`, `metamath`, `shepherd`) of another prepare stage's problems.
Writes  problems_{train,validation,test}.jsonl, labels_easy.jsonl, labels_sealed.jsonl (see data/firewall.py),
        summary.json with counts by split and level, inputs and everything that was left out, and leaks.jsonl with the
        train problems that resemble test problems. Solution sets: see data/solution_sets.py.
Solutions are written in the project's step format, ready for fine-tuning.

Which row goes where depends on `data_seed`, ids, levels and subjects, never on answers. (A row without any answer is
left out or refused before that.)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from reward_models.records import write_jsonl
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.files import Row, iter_hub, iter_rows, sha256_of, skipped_files
from rlhf_e2h.data.firewall import write_split
from rlhf_e2h.data.intake import Intake
from rlhf_e2h.data.leaks import Leak
from rlhf_e2h.data.levels import EASY, LEVELS, check_per_level, counts_by_level, problem_key
from rlhf_e2h.data.own_rows import problem_text
from rlhf_e2h.data.solution_sets import Choice, write_solution_set
from rlhf_e2h.data.solutions import Matcher, Solution
from rlhf_e2h.data.sources import Source, find_source, read_sides, sources
from rlhf_e2h.data.splitting import (
    Rules,
    Split,
    evenly,
    leaks_of,
    split_files,
    split_made,
    split_paper,
    split_random,
    take_some,
    without_near_duplicates,
)
from rlhf_e2h.data.steps import solution_text
from rlhf_e2h.runner.config import Input, Inputs
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits

VERSION = 2
TRAITS = Traits(
    order=20,
    about="split problems into easy and hard, and seal the hard labels",
    runs_model=False,
    seeded=False,  # one split for all seeds of a recipe; `data_seed` gives another
)


@dataclass
class Config:
    """Settings of `prepare`."""

    # problems: procedural, math, gsm8k, jsonl (rows of your own); solutions of them: prm800k, metamath, shepherd
    # apps: programs with their tests (see data/apps.py); each is declared in a file of data/ (see data/sources.py)
    source: str = "procedural"
    # .jsonl, .json or .parquet file, or a folder of them (the original layout of MATH, for instance)
    train: Input | None = None
    test: Input | None = None  # the test side; may be missing with `split: random`
    # in place of files: a hub data set with the splits train and test, for instance EleutherAI/hendrycks_math
    hub_id: str = ""
    hub_revision: str = ""  # commit of the hub data set; give one to get the same rows next year
    hub_configs: list[str] = field(default_factory=list)  # parts of the hub data set; all of them if empty
    # files: test is the test side, validation comes out of train. random: one pool.
    # paper: test is MATH500, validation comes out of the test side with MATH500's counts, all other problems train.
    split: Literal["files", "random", "paper"] = "files"
    # split: paper: file with the MATH500 problems; without it rows marked `in_math500` are taken
    test_subset: Input = ""
    data_seed: int = 0  # decides the split; the seeds of a recipe's runs share it
    train_size: int = 0  # problems to keep, with the mix of levels and subjects of the whole; 0: all
    validation_size: int = 0  # problems; 0: none, or MATH500's counts with `split: paper`
    test_size: int = 0  # problems to keep; 0: all
    train_per_level: list[int] = field(default_factory=list)  # five counts, in place of a size
    validation_per_level: list[int] = field(default_factory=list)
    test_per_level: list[int] = field(default_factory=list)
    easy_levels: list[int] = field(default_factory=lambda: list(EASY))  # whose labels training may read
    # rows without a level; keep: train on them as hard problems
    unknown_level: Literal["error", "drop", "keep"] = "error"
    no_answer: Literal["error", "drop"] = "error"  # rows whose solution has no answer
    duplicate_id: Literal["error", "drop"] = "error"
    default_level: int = 0  # level of rows that have none, for sources without levels; 0: none
    # GSM8K has no levels: this makes them from the number of steps of the solution. Most steps of levels 1 to 4:
    # [2, 3, 4, 5] gives level 5 to more than 5, [1, 2, 2, 3] level 2 to 2 steps and level 4 to 3
    step_levels: list[int] = field(default_factory=list, metadata={"added": True})
    max_chars: int = 0  # leave out train and validation problems whose text or solution is longer; never test problems
    near_duplicates: Literal["report", "drop", "ignore"] = "report"  # train problems that resemble a test problem
    near_duplicate_threshold: float = 0.8  # Jaccard similarity of 3-token shingles from which two texts count as near
    # For the sources of solutions:
    problems: Input | None = None  # prepare stage whose train problems the solutions belong to; it gives their levels
    records: Inputs = field(default_factory=list)  # the files of the set (PRM800K has two phases)
    outside: Literal["exclude", "easy"] = "exclude"  # problems not in the split; easy: as in the paper's released code
    quality_control: bool = True  # PRM800K: also the records that served to check the labellers
    with_gsm8k: bool = True  # MetaMATH: its GSM8K part, which counts as easy
    tasks: list[str] = field(default_factory=lambda: ["MATH"])  # Math-Shepherd: parts to read; all of them if empty
    solutions_per_problem: int = 0  # in each draw; 0: all
    draws: int = 1  # sets of solutions drawn one after the other; train one epoch on them

    def __post_init__(self) -> None:
        for per_level in (self.train_per_level, self.validation_per_level, self.test_per_level):
            if per_level:
                check_per_level(per_level)
        # Only the lowest levels: otherwise hard labels could pass the firewall under the name of easy ones.
        if sorted(self.easy_levels) not in [list(LEVELS[:n]) for n in range(1, len(LEVELS))]:
            raise ValueError(
                f"easy_levels {self.easy_levels} is not allowed; give the lowest levels, such as [1, 2, 3]"
            )
        sizes = (self.train_size, self.validation_size, self.test_size, self.max_chars, self.solutions_per_problem)
        if min(sizes) < 0:
            raise ValueError(f"sizes {sizes} are not allowed; use 0 or more")
        if self.draws < 1:
            raise ValueError(f"draws {self.draws} is not allowed; use 1 or more")
        self._check_source()

    def _check_source(self) -> None:
        source = find_source(self.source)
        if self.step_levels and not source.step_levels:
            having = " or ".join(name for name, known in sources().items() if known.step_levels)
            raise ValueError(f"step_levels is for source: {having}, not {self.source}, whose rows have levels")
        if self.step_levels and (len(self.step_levels) != 4 or sorted(self.step_levels) != self.step_levels):
            raise ValueError(f"step_levels is {self.step_levels}; give four numbers of steps that do not fall")
        if source.solutions:
            if not self.problems or not self.records:
                raise ValueError(f"source: {self.source} needs `problems` (a prepare stage) and `records` (its files)")
        elif source.made:
            if not (self.train_size or self.train_per_level) or not (self.test_size or self.test_per_level):
                raise ValueError(f"source: {self.source} needs train_size and test_size (or the per_level counts)")
        elif not self.hub_id and not self.train:
            raise ValueError(f"source: {self.source} needs `train` (a file or folder) or `hub_id`")
        elif not self.hub_id and not self.test and self.split != "random":
            raise ValueError(f"split: {self.split} needs `test`; give it, or use split: random")


def main(config: Config, run: StageRun) -> None:
    """Write the split and say what is in it."""
    if not run.is_main:
        return
    source = find_source(config.source)
    if source.solutions:
        _prepare_solutions(config, run, source.solutions)
    else:
        _prepare_problems(config, run, source)


def _prepare_problems(config: Config, run: StageRun, source: Source) -> None:
    intake = Intake(config.unknown_level, config.no_answer, config.duplicate_id, config.default_level)
    split = _split(config, run, source, intake)
    if config.near_duplicates == "drop":
        split = without_near_duplicates(split, config.near_duplicate_threshold)
    if not source.made:
        split.train = _shrunk(split.train, config.train_size, config.train_per_level, config.data_seed)
        split.test = _shrunk(split.test, config.test_size, config.test_per_level, config.data_seed)
    parts = split.by_name()
    if source.in_steps:
        parts = {name: [_in_steps(example) for example in part] for name, part in parts.items()}
    for name in ("train", "test"):
        if not parts[name]:
            raise ValueError(f"no problem is left for {name}; loosen the sizes and limits of this prepare stage")
    write_split(run.out, parts, config.easy_levels)
    leaks = [] if config.near_duplicates == "ignore" else leaks_of(split, config.near_duplicate_threshold)
    write_jsonl(run.out / "leaks.jsonl", map(asdict, leaks))
    summary = _summary(config, run, split, intake, leaks) | {"inputs": _inputs(config, run)}
    write_json(run.out / "summary.json", summary)
    without = sum(summary["without_solution"].values())
    run.finish(counts=summary["counts"], **nonzero(**_lost(summary["left_out"]), without_solution=without))


def _lost(left_out: dict[str, Any]) -> dict[str, int]:
    """What the stage's line says: rows left out by kind, files skipped by name, problems without a solution."""
    rows = {kind.replace(" ", "_"): entry["rows"] for kind, entry in left_out.items() if "rows" in entry}
    return {**rows, "files_skipped": len(left_out["files"]["skipped"])}


def _prepare_solutions(
    config: Config, run: StageRun, solutions: Callable[[Iterator[Row], Config], Iterator[Solution]]
) -> None:
    problems = run.path(config.problems or "")
    upstream = json.loads((problems / "summary.json").read_text(encoding="utf-8"))
    choice = Choice(
        upstream["easy_levels"], config.solutions_per_problem, config.draws, config.max_chars, config.data_seed
    )

    def read() -> Iterator[Solution]:
        return solutions((row for place in config.records for row in iter_rows(run.path(place))), config)

    def matcher() -> Matcher:
        return Matcher.of(problems, config.outside)

    summary = write_solution_set(run.out, config.source, read, matcher, choice)
    if not summary["matching"]["used"]:
        raise ValueError(
            f"none of the problems of {config.source} is a train problem of {config.problems}: {summary['matching']}; "
            "check that both are about the same problems, or set outside=easy"
        )
    write_json(run.out / "summary.json", summary | {"inputs": _inputs(config, run)})
    matched = summary["matching"]
    left_out = {name: matched[f"problem is in {name}"] for name in ("test", "validation")}
    run.finish(
        counts=summary["counts"],
        step_records=summary["step records"],
        **nonzero(unknown_problem=matched["problem is unknown"], **{f"{k}_problem": v for k, v in left_out.items()}),
    )


def _split(config: Config, run: StageRun, source: Source, intake: Intake) -> Split:
    if source.made:
        per_level = {
            name: getattr(config, f"{name}_per_level") or evenly(getattr(config, f"{name}_size"))
            for name in ("test", "validation", "train")
        }
        return split_made(source, per_level, config.data_seed)
    sides = read_sides(source, lambda origin: _rows(config, run, source, origin), intake, config)
    rules = Rules(config.data_seed, config.validation_size, config.validation_per_level, config.max_chars)
    if config.split == "random":
        return split_random([*sides.train, *sides.test], config.test_size, config.test_per_level, rules)
    if config.split == "paper":
        keys = sides.math500
        if config.test_subset:
            keys = {problem_key(problem_text(row)) for row in iter_rows(run.path(config.test_subset))}
        return split_paper([*sides.train, *sides.test], keys, rules)
    return split_files(sides.train, sides.test, rules)


def _rows(config: Config, run: StageRun, source: Source, origin: str) -> Iterable[Row]:
    if config.hub_id:
        return iter_hub(config.hub_id, origin, config.hub_configs, config.hub_revision)
    place = config.train if origin == "train" else config.test
    return source.rows(run.path(place), origin) if place else ()


def _shrunk(part: list[Example], size: int, per_level: list[int], seed: int) -> list[Example]:
    if per_level or 0 < size < len(part):
        return take_some(part, size, per_level, seed)[0]
    return part


def _in_steps(example: Example) -> Example:
    """With the solution as a policy should write it; a problem without a solution stays without."""
    return replace(example, solution=solution_text(example.solution, example.answer)) if example.solution else example


def _summary(config: Config, run: StageRun, split: Split, intake: Intake, leaks: list[Leak]) -> dict[str, Any]:
    parts = split.by_name()
    return {
        "source": config.hub_id or config.source,
        "split": config.source if find_source(config.source).made else config.split,
        "data_seed": config.data_seed,
        "easy_levels": config.easy_levels,
        "counts": {name: counts_by_level(part, config.easy_levels) for name, part in parts.items()},
        "without_solution": {name: sum(not e.solution for e in part) for name, part in parts.items()},
        "subjects": {name: dict(sorted(Counter(e.subject for e in part).items())) for name, part in parts.items()},
        "left_out": {
            **intake.report(),
            "too long": {"rows": split.too_long},
            "files": {"skipped": _skipped(config, run)},
            "duplicates": {"rows": len(split.duplicates), "pairs": [asdict(pair) for pair in split.duplicates]},
        },
        "leaks": {"threshold": config.near_duplicate_threshold, **Counter(leak.kind for leak in leaks)},
    }


def _skipped(config: Config, run: StageRun) -> list[str]:
    if config.hub_id or find_source(config.source).rows is not iter_rows:
        return []
    return [name for place in (config.train, config.test) if place for name in skipped_files(run.path(place))]


def _inputs(config: Config, run: StageRun) -> dict[str, dict[str, str]]:
    """Where the rows came from; the file name alone, because a path tells about a machine, not about data."""
    if config.hub_id:
        return {"hub": {"id": config.hub_id, "revision": config.hub_revision or "latest at the time of the run"}}
    places = {name: getattr(config, name) for name in ("train", "test", "test_subset") if getattr(config, name)}
    places |= {f"records[{index}]": place for index, place in enumerate(config.records)}
    paths: dict[str, Path] = {name: run.path(place) for name, place in places.items()}
    return {name: {"file": path.name, "sha256": sha256_of(path)} for name, path in paths.items()}
