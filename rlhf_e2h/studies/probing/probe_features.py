"""Hidden states of a frozen model at labelled steps or outcomes of solutions, once, for studies that train probes only.

Reads step labels of people (`steps`, a prepare stage of PRM800K) or graded solutions (`graded`), of all levels: its
name must say so. Or solutions in the small arithmetic world (`samples`), whose steps are checked against the problem's
text, so that no label is read. Writes items.jsonl (what is labelled, by whom, in which problem) and states.safetensors,
a row an item; without a model the items alone, for studies that train models on them. Of PRM800K, the completions that
end in an answer make a second task, the outcome, by the checker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from reward_models.records import read_jsonl, write_jsonl
from reward_models.settings import Bf16
from rlhf_e2h.data import procedural
from rlhf_e2h.data.firewall import SPLITS, read_problems
from rlhf_e2h.data.levels import problem_key
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.records import GRADED, read_samples
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import grade
from rlhf_e2h.studies.probing.state_files import ITEMS, write_states
from rlhf_e2h.studies.probing.trees import OUTCOMES, STEPS, Label, Tree, choose, step_trees

VERSION = 2
TRAITS = Traits(order=225, about="hidden states of a frozen model at labelled steps, for probes", seeded=False)
CHUNK = 10  # problems between two saves: a killed run loses no more
Row = dict[str, Any]


@dataclass
class Config:
    """Settings of the `probe_features` stage."""

    data: Input  # output of a prepare stage: problems, levels and answers
    model: Input | None = None  # a frozen model, folder or hub id; none: choose and write the items only
    steps: Input | None = None  # output of a prepare stage with step labels (source: prm800k)
    graded: Input | None = None  # in their place: graded samples, a grade stage or a file (.jsonl, .jsonl.gz)
    # in their place: output of a sample stage on procedural problems
    samples: Input | None = field(default=None, metadata={"added": True})
    problems_per_level: int = 60  # problems with labels of each level, at random; 0: all
    steps_per_problem: int = 16  # labelled steps of each problem, half of each class as far as there are enough
    outcomes_per_problem: int = 4  # the same of labelled outcomes
    layer: Literal["middle", "last"] = "middle"
    max_tokens: int = 2048  # of a problem with all its chosen steps; longer ones are left out and counted
    data_seed: int = 0  # of the choice of problems and labels: the same for every model
    bf16: Bf16 = "auto"  # the frozen model in bf16; false: float32; auto: where the card or processor computes it

    def __post_init__(self) -> None:
        if sum(map(bool, (self.steps, self.graded, self.samples))) != 1:
            raise ValueError(
                "give one of `steps` (step labels), `graded` (solutions with a verdict) and `samples` (of procedural "
                "problems)"
            )
        if min(self.steps_per_problem, self.outcomes_per_problem) < 0 or self.problems_per_level < 0:
            raise ValueError("problems_per_level, steps_per_problem and outcomes_per_problem are 0 or more")


def main(config: Config, run: StageRun) -> None:
    trees = (_step_trees if config.steps else _outcome_trees if config.graded else _checked_trees)(config, run)
    chosen, contradicting = _chosen(config, run, trees)
    if config.model is None:
        items = [item for part in chosen for item in _items(*part)]
        write_jsonl(run.out / ITEMS, items)
        _finish(run, items, len(chosen), 0, contradicting)
        return
    items, states, left_out = _read_all(config, run, chosen)
    write_states(run.out, items, np.concatenate(states))
    _finish(run, items, len(chosen) - left_out, left_out, contradicting)


def _finish(run: StageRun, items: Sequence[Row], problems: int, left_out: int, contradicting: int) -> None:
    counts = {kind: sum(item["kind"] == kind for item in items) for kind in (STEPS, OUTCOMES)}
    run.finish(problems=problems, too_long=left_out, contradicting_labels=contradicting, **counts)


def _read_all(
    config: Config, run: StageRun, chosen: Sequence[tuple[Row, Tree, list[int]]]
) -> tuple[list[Row], list[np.ndarray], int]:
    """Items and states of the problems that are short enough, and how many are not."""
    items: list[Row] = []
    states, left_out = [], 0
    reader: Any = None
    with run.progress(len(chosen), "reading", "problems") as bar:
        for start in range(0, len(chosen), CHUNK):
            part = chosen[start : start + CHUNK]
            file = run.scratch / f"states_{start}.safetensors"
            if not file.is_file():
                reader = reader or _reader(config, run)
                save_file({str(n): _read(reader, tree, nodes, config) for n, (_, tree, nodes) in enumerate(part)}, file)
            found = load_file(file)
            for number, (about, tree, nodes) in enumerate(part):
                if len(found[str(number)]) == len(nodes):
                    states.append(found[str(number)])
                    items += _items(about, tree, nodes)
                else:
                    left_out += 1
            bar.advance(len(part))
    if not items:
        raise ConfigError(f"{run.name}: all {len(chosen)} problems have more than max_tokens {config.max_tokens}")
    return items, states, left_out


def _reader(config: Config, run: StageRun) -> Any:
    from rlhf_e2h.studies.probing.states import TreeReader

    return TreeReader(run.path(str(config.model)), config.layer, config.bf16)


def _read(reader: Any, tree: Tree, nodes: Sequence[int], config: Config) -> np.ndarray:
    """States (R, D); (0, 1) for a tree that is too long."""
    head, own, _ = reader.encode(tree)
    if len(head) + sum(map(len, own)) > config.max_tokens:
        return np.zeros((0, 1), dtype=np.float32)
    return np.asarray(reader.read(tree, nodes), dtype=np.float32)


def _step_trees(config: Config, run: StageRun) -> dict[str, tuple[Row, Tree]]:
    """(problem, tree) by problem id, outcomes by the checker included."""
    data = run.path(config.data)
    rows = list(run.stepwise(run.path(str(config.steps)), "full"))
    labels = run.labels(data, "full", splits=("train",))
    found = {problem_key(p["problem"]): p for p in read_problems(data, "train") if p["problem_id"] in labels}
    problems = {row["problem"]: found[key] for row in rows if (key := problem_key(row["problem"])) in found}
    trees = step_trees((row for row in rows if row["problem"] in problems), SECTIONS.answer_mark)
    ends, samples = [], []
    for row in rows:
        if row["problem"] in trees and row["steps"][-1].startswith(SECTIONS.answer_mark):
            tree = trees[row["problem"]]
            ends.append((tree, tree.add(row["steps"])[-1]))
            answer = SECTIONS.section_answer(row["steps"][-1])
            samples.append({"problem_id": problems[row["problem"]]["problem_id"], "answer": answer})
    for (tree, node), verdict in zip(ends, grade(samples, labels) if samples else [], strict=True):
        tree.labels[node].append(Label(OUTCOMES, int(verdict["correct"])))
    return {problems[text]["problem_id"]: (problems[text], tree) for text, tree in trees.items()}


def _outcome_trees(config: Config, run: StageRun) -> dict[str, tuple[Row, Tree]]:
    data, path = run.path(config.data), run.path(str(config.graded))
    run.labels(data, "full")  # verdicts are labels: the manifest says that they were read
    problems = {p["problem_id"]: p for split in SPLITS for p in read_problems(data, split)}
    trees: dict[str, tuple[Row, Tree]] = {}
    file = path / GRADED if path.is_dir() else path
    for row in read_jsonl(file, required=("problem_id", "text", "correct")):
        if row["problem_id"] not in problems:
            raise ConfigError(f"{run.name}: {file} has {row['problem_id']!r}, which {config.data} lacks; prepare it")
        problem = problems[row["problem_id"]]
        _, tree = trees.setdefault(row["problem_id"], (problem, Tree(problem["problem"])))
        steps = SECTIONS.split_steps(row["text"])
        if steps and row.get("finished", True):
            tree.labels[tree.add(steps)[-1]].append(Label(OUTCOMES, int(row["correct"])))
    return trees


def _checked_trees(config: Config, run: StageRun) -> dict[str, tuple[Row, Tree]]:
    """Trees of procedural problems: each finished solution's steps, answers aside, by `procedural.step_labels`."""
    data = run.path(config.data)
    problems = {p["problem_id"]: p for split in SPLITS for p in read_problems(data, split)}
    trees: dict[str, tuple[Row, Tree]] = {}
    for row in read_samples(run.path(str(config.samples)), "finished"):
        problem = problems.get(row["problem_id"])
        if problem is None or problem["source"] != procedural.SOURCE.name:
            raise ConfigError(
                f"{run.name}: {row['problem_id']!r} of {config.samples} is not a procedural problem of {config.data}; "
                "other steps cannot be checked, so give `steps` or `graded`"
            )
        if row["finished"]:
            _, tree = trees.setdefault(row["problem_id"], (problem, Tree(problem["problem"])))
            steps = SECTIONS.split_steps(row["text"])
            labels = procedural.step_labels(problem["problem"], steps)
            for node, step, label in zip(tree.add(steps), steps, labels, strict=True):
                if not SECTIONS.opens_answer(step):
                    tree.labels[node].append(Label(STEPS, label))
    return trees


def _chosen(
    config: Config, run: StageRun, trees: dict[str, tuple[Row, Tree]]
) -> tuple[list[tuple[Row, Tree, list[int]]], int]:
    """Problems with their pruned trees and labelled nodes, and how many labels contradict each other."""
    rng = np.random.default_rng(config.data_seed)
    by_level: dict[Any, list[str]] = {}
    for problem_id in sorted(trees):
        by_level.setdefault(trees[problem_id][0]["level"], []).append(problem_id)
    found = []
    for level in sorted(by_level, key=str):
        names = rng.permutation(by_level[level])[: config.problems_per_level or None]
        for problem_id in sorted(map(str, names)):
            about, tree = trees[problem_id]
            steps = choose(tree, STEPS, config.steps_per_problem, rng)
            ends = choose(tree, OUTCOMES, config.outcomes_per_problem, rng)
            if steps or ends:
                found.append((about, *tree.pruned(dict.fromkeys([*steps, *ends]))))
    if not found:
        raise ConfigError(
            f"{run.name}: no labelled step or outcome in {config.steps or config.graded or config.samples}"
        )
    return found, sum(tree.contradicting() for _, tree in trees.values())


def _items(about: Row, tree: Tree, nodes: Sequence[int]) -> Iterator[Row]:
    """One row for each state. A node is a step or an end, never both: answers have no step label."""
    for node in nodes:
        label = tree.label(node, STEPS) or tree.label(node, OUTCOMES)
        assert label is not None
        path = tree.path(node)
        yield {
            "guid": f"{about['problem_id']}:{node}", "problem_id": about["problem_id"], "level": about["level"],
            "kind": label.kind, "label": label.value, "rating": label.rating, "step": len(path) - 1,
            "text": tree.steps[node], "before": tree.steps[path[-2]] if len(path) > 1 else "",
            "problem": about["problem"], "steps": [tree.steps[one] for one in path],
        }  # fmt: skip
