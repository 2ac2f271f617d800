"""Supervision gap: what do easy labels give, measured against what hard labels give, at equal n?

Trains on none, easy, medium, hard and all problems (and on each level) by several methods, answers every test problem,
and writes items.jsonl: one row for each cell and test problem, which is what the bootstrap of `findings` needs. It
reads hard labels, so its name must say so (for instance `gap_full`). Hase et al. 2024, arXiv 2401.06751.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.data import procedural
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.records import Row, read_graded
from rlhf_e2h.runner.config import ConfigError, Input, NamedInputs, setting
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.bank import Decoding, grade, sample
from rlhf_e2h.studies.features import last_token_features, solution_texts
from rlhf_e2h.studies.gap import arms, slices
from rlhf_e2h.studies.gap.difficulty_measures import MEASURES
from rlhf_e2h.studies.gap.results import ITEMS
from rlhf_e2h.studies.weak_to_strong.soft_rows import Item, Labels
from rlhf_e2h.studies.weak_to_strong.students import FitSettings, fit_soft, predict
from rlhf_e2h.text_formats import FormatSettings, format_of
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.models import open_policy

VERSION = 3
TRAITS = Traits(
    order=230,
    about="train on none, easy, medium, hard and all problems at equal n, by several methods",
    trains=True,
)
Method = Literal["icl", "sft", "probe", "rm", "prm"]
JUDGES = frozenset({"probe", "rm", "prm"})  # methods that choose among sampled solutions


@dataclass
class Config:
    """Settings of the `gap` stage."""

    base: Input  # model that every arm starts from
    data: Input  # output of a prepare stage
    graded: Input | None = None  # graded samples of train problems of all levels, from which judges learn
    bank: Input | None = None  # graded samples of test problems, from which judges choose
    difficulty: Input | None = None  # output of a difficulty stage, for measures other than the level
    measure: str = "level"  # what makes a problem easy or hard: level, or a column of the difficulty stage
    easy_max: float | None = None  # easy up to this value; the .30 quantile if not given
    hard_min: float | None = None  # hard from this value; the .70 quantile if not given
    methods: list[Method] = field(default_factory=lambda: ["icl", "probe", "sft", "rm"])
    train_on: list[str] = field(default_factory=lambda: ["none", "easy", "medium", "hard", "all"])
    by_level: list[Method] = field(default_factory=lambda: ["probe"])  # also trained on each level alone (heat map)
    n: int = 160  # problems that every arm learns from
    shots: int = 4  # exemplars of icl
    curve: list[int] = field(default_factory=list)  # further n, for the cost curve
    noise: list[float] = field(default_factory=list)  # probabilities p at which labels are redrawn: easy p, hard 2p
    curves_of: list[Method] = field(default_factory=lambda: ["probe"])  # methods of the cost and noise curves
    policies: NamedInputs = field(default_factory=dict)  # trained elsewhere, as METHOD/TRAIN_ON: rl/easy, rl/hard
    # labels of prm: procedural checks each step as a person would
    step_labels: Literal["procedural", "none"] = field(default="none", metadata={"added": True})
    layers: Literal["middle", "last", "hase"] = "hase"  # hidden states that the probe reads
    template: str | None = None  # text before a solution, with {problem}, for judges
    # of icl and sft: sections, chat, minerva or {template: FILE}; auto: what is saved beside the base, else sections
    format: FormatSettings = field(default_factory=FormatSettings)
    max_new_tokens: int = 256
    training: TrainingSettings = field(default_factory=TrainingSettings)  # of sft
    fit: FitSettings = field(default_factory=FitSettings)  # of rm and prm
    batch_size: int = setting(256, affects_result=False)

    def __post_init__(self) -> None:
        judged = JUDGES & {*self.methods, *self.by_level, *self.curves_of}
        if judged and not (self.graded and self.bank):
            raise ValueError(f"{', '.join(sorted(judged))}: needs `graded` and `bank`, outputs of grade stages")
        if "prm" in judged and self.step_labels == "none":
            raise ValueError("prm learns from labels of steps, of which step_labels: none gives none; use procedural")
        if "none" not in self.train_on:
            raise ValueError(f"train_on {self.train_on} lacks 'none', the floor of every gap")
        if self.measure != "level" and not self.difficulty:
            raise ValueError(f"measure {self.measure!r} needs `difficulty`, the output of a difficulty stage")
        for name in self.policies:
            if name.count("/") != 1:
                raise ValueError(f"policies: {name!r} should read METHOD/TRAIN_ON, for instance rl/easy")


@dataclass(frozen=True)
class Cell:
    """One training: method, arm, number of problems, noise probability p of the study (0 for clean labels)."""

    method: str
    train_on: str
    n: int
    noise: float = 0.0


def cells(config: Config, levels: Sequence[int]) -> list[Cell]:
    """Every training of the study, each once."""

    def full(method: str, arm: str) -> int:
        return 0 if arm == "none" else config.shots if method == "icl" else config.n

    found = [Cell(m, arm, full(m, arm)) for m in config.methods for arm in config.train_on]
    found += [Cell(m, f"level {level}", full(m, "level")) for m in config.by_level for level in levels]
    sides = [arm for arm in config.train_on if arm in ("easy", "hard")]
    found += [Cell(m, arm, n) for m in config.curves_of for arm in sides for n in config.curve]
    found += [Cell(m, arm, full(m, arm), p) for m in config.curves_of for arm in sides for p in config.noise]
    return list(dict.fromkeys(found))


def main(config: Config, run: StageRun) -> None:
    study = _Study(config, run)
    plan = cells(config, study.levels)
    study.check(plan)
    waiting: list[tuple[Cell, list[Row]]] = []
    with run.progress(len(plan), "arms", "trainings") as bar:
        for cell in plan:
            # without labels in context and fine-tuned are the same model, which answers once
            method = "greedy" if not cell.n and cell.method in ("icl", "sft") else cell.method
            part = run.scratch / f"{method}-{cell.train_on}-{cell.n}-{cell.noise}.jsonl".replace(" ", "_")
            if not part.is_file():
                write_jsonl(part, study.answer(cell))
            waiting.append((cell, read_jsonl(part)))
            bar.advance(1)
    for name, reference in config.policies.items():
        method, arm = name.split("/")
        rows = study.greedy(open_policy(run.path(reference)), name)
        waiting.append((Cell(method, arm, 0), rows))
    write_jsonl(run.out / ITEMS, study.graded(waiting))
    write_json(run.out / "split.json", study.about())
    run.finish(cells=len(waiting), n=config.n, test=len(study.test))


def step_labels(items: Sequence[Item], p: float, seed: int) -> Labels:
    """Whether each step of each procedural solution is right, 1 or 0 (S,), redrawn with probability p."""
    truth = [procedural.step_labels(problem, steps) for problem, steps in items]
    flat = iter(slices.redrawn([label for one in truth for label in one], (0, 1), p, seed))
    return [np.array([next(flat) for _ in one], dtype=float) for one in truth]


class _Study:
    """What all cells share: problems, labels, groups, banks and their features."""

    def __init__(self, config: Config, run: StageRun) -> None:
        self.config, self.run = config, run
        self.texts = format_of(run.path(config.graded) if config.graded else None)
        data = run.path(config.data)
        self.labels = run.labels(data, "full", splits=("train", "test"))
        self.train = [p for p in read_problems(data, "train") if p["problem_id"] in self.labels]
        self.test = read_problems(data, "test")
        self.problems = {p["problem_id"]: p for p in (*self.train, *self.test)}
        if len(self.problems) < len(self.train) + len(self.test):
            raise ConfigError(f"{run.name}: train and test share problems; run prepare again with separate splits")
        self.train_bank = self.test_bank = arms.Bank([], {})
        if config.graded and config.bank:
            self.train_bank, self.test_bank = self._bank(config.graded), self._bank(config.bank)
            known = self.train_bank.of_problem
            # every method learns from the same problems, so those without samples are out for all
            self.train = [p for p in self.train if p["problem_id"] in known]
            lost = [p["problem_id"] for p in self.test if p["problem_id"] not in self.test_bank.of_problem]
            if lost:
                raise ConfigError(f"{run.name}: the bank lacks {len(lost)} test problems, {lost[0]} first; sample them")
        self.levels = sorted({p["level"] for p in self.train})
        self.groups = slices.groups_of(self._measure(), config.easy_max, config.hard_min)

    def _bank(self, reference: str) -> arms.Bank:
        rows = read_graded(self.run.path(reference), "finished")
        rows = [row for row in rows if row["problem_id"] in self.problems]
        features = None
        if "probe" in {*self.config.methods, *self.config.by_level, *self.config.curves_of}:
            texts = solution_texts(self.problems, rows, self.config.template, self.texts)
            features = last_token_features(self.run.path(self.config.base), texts, self.config.layers)
        return arms.Bank.of(rows, features)

    def _measure(self) -> list[float]:
        if self.config.measure == "level":
            return [float(p["level"]) for p in self.train]
        rows = read_jsonl(self.run.path(str(self.config.difficulty)) / MEASURES, required=("problem_id",))
        values = {row["problem_id"]: row.get(self.config.measure) for row in rows}
        missing = [p["problem_id"] for p in self.train if values.get(p["problem_id"]) is None]
        if missing:
            raise ConfigError(
                f"{self.run.name}: measure {self.config.measure!r} is missing for {len(missing)} problems, "
                f"{missing[0]} first; choose another column of the difficulty stage"
            )
        return [float(values[p["problem_id"]]) for p in self.train]  # type: ignore[arg-type]

    def chosen(self, cell: Cell) -> list[Row]:
        candidates = slices.members(self.groups, [p["level"] for p in self.train], cell.train_on)
        return [self.train[i] for i in slices.draw(candidates, cell.n, cell.train_on, self.run.seed)]

    def check(self, plan: Sequence[Cell]) -> None:
        """Every arm has its n problems, and right and wrong samples: found out before anything is trained."""
        for cell in plan:
            if cell.method in JUDGES and cell.n:
                self._right_or_wrong(cell)
            else:
                self.chosen(cell)

    def answer(self, cell: Cell) -> list[Row]:
        """Rows of the test problems: `correct`, or an answer that is still to be graded."""
        ids = [p["problem_id"] for p in self.test]
        if cell.method in JUDGES:
            if cell.train_on == "none":
                correct = arms.random_of_bank(self.test_bank, ids)
            else:
                correct = arms.best_of_bank(self.test_bank, ids, self._judge(cell))
            return [{"problem_id": i, "correct": value} for i, value in zip(ids, correct, strict=True)]
        config, base, solved = self.config, self.run.path(self.config.base), self._solved(cell)
        if cell.method == "icl" or not solved:
            policy = arms.in_context(base, solved, len(solved), text_format=config.format)
        else:
            policy = arms.fine_tuned(base, solved, config.training, self.run, config.format)
        return self.greedy(policy, f"{cell.method} {cell.train_on}")

    def greedy(self, policy: Any, name: str) -> list[Row]:
        config = self.config
        decoding = Decoding(n=1, temperature=0.0, max_new_tokens=config.max_new_tokens, batch_size=config.batch_size)
        with self.run.progress(len(self.test), f"answers of {name}", "solutions") as bar:
            return sample(policy, self.test, decoding, self.run.seed, bar.advance)

    def _right_or_wrong(self, cell: Cell) -> tuple[list[int], NDArray[np.float64]]:
        """Rows of the train bank that a cell learns from, and their labels with its noise."""
        chosen = self.train_bank.indices([p["problem_id"] for p in self.chosen(cell)])
        truth = [float(self.train_bank.rows[i]["correct"]) for i in chosen]
        p = slices.noise_of(cell.train_on, cell.noise)
        labels_N = np.array(slices.redrawn(truth, (0.0, 1.0), p, self.run.seed), dtype=float)
        if labels_N.min() == labels_N.max():
            raise ConfigError(
                f"{self.run.name}: all {len(labels_N)} samples of arm {cell.train_on!r} are "
                f"{'right' if labels_N.max() else 'wrong'}; {cell.method} needs both: raise n or the samples a problem"
            )
        return chosen, labels_N

    def _judge(self, cell: Cell) -> Any:
        chosen, labels_N = self._right_or_wrong(cell)
        if cell.method == "probe":
            return arms.probe_scores(self.train_bank, chosen, labels_N, self.test_bank)
        items = self._items(self.train_bank.rows[i] for i in chosen)
        kind, labels = "orm", list(labels_N[:, None])
        if cell.method == "prm":
            kind, labels = "prm", step_labels(items, slices.noise_of(cell.train_on, cell.noise), self.run.seed)
        config = self.config
        scorer = fit_soft(
            self.run.path(config.base), items, labels, self.run.scratch / "rm", config.fit, self.run.seed,
            template=config.template, kind=kind, text_format=self.texts,
        )  # fmt: skip
        return predict(scorer, self._items(self.test_bank.rows))

    def _items(self, rows: Iterable[Row]) -> list[Item]:
        return [(self.problems[row["problem_id"]]["problem"], self.texts.split_steps(row["text"])) for row in rows]

    def _solved(self, cell: Cell) -> list[tuple[str, str]]:
        labels = [self.labels[p["problem_id"]] for p in self.chosen(cell)]
        if without := sum(not label.solution for label in labels):
            raise ConfigError(
                f"{self.run.name}: {without} of {len(labels)} problems of arm {cell.train_on!r} have no solution, "
                f"which {cell.method} learns from; give solutions to `prepare`, or compare judges only"
            )
        pairs = [(self.problems[label.problem_id]["problem"], label.solution) for label in labels]
        if not cell.noise:
            return pairs
        known = sorted({label.answer for label in self.labels.values() if label.split == "train"})
        p = slices.noise_of(cell.train_on, cell.noise)
        answers = slices.redrawn([label.answer for label in labels], known, p, self.run.seed)
        # the answer is the label that gets noisy; the steps above it stay
        return [
            (problem, solution[: solution.rindex(label.answer)] + str(answer))
            for (problem, solution), label, answer in zip(pairs, labels, answers, strict=True)
        ]

    def graded(self, waiting: Sequence[tuple[Cell, list[Row]]]) -> list[Row]:
        """Item rows of all cells; answers are checked together, in one pool."""
        texts = [row for _, rows in waiting for row in rows if "correct" not in row]
        verdicts = iter(grade(texts, self.labels) if texts else [])
        found = []
        for cell, rows in waiting:
            about = {"method": cell.method, "train_on": cell.train_on, "n": cell.n, "noise": cell.noise}
            for row in rows:
                correct = float(row["correct"] if "correct" in row else next(verdicts)["correct"])
                level = self.problems[row["problem_id"]]["level"]
                found.append({**about, "problem_id": row["problem_id"], "level": level, "correct": correct})
        return found

    def about(self) -> dict[str, Any]:
        """The split plan: which groups there are, and that no arm learns from a test problem."""
        counts = {group: self.groups.count(group) for group in slices.GROUPS}
        return {"measure": self.config.measure, "n": self.config.n, "groups": counts, "test": len(self.test)}
