"""Import samples of somebody else's generator as a sample bank, with which grade, reward, rerank and report continue.

Reads rows of texts (see data/generations.py) and the problems of a `prepare` stage; writes samples.jsonl. No label is
read and no field but text and system message is kept, so that an answer in the rows cannot slip past the firewall.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from reward_models.records import write_jsonl
from rlhf_e2h.data.files import Row, iter_hub, iter_rows
from rlhf_e2h.data.firewall import SPLITS, read_problems
from rlhf_e2h.data.generations import Finder, Generation, read_generations, read_requests
from rlhf_e2h.prompts import ANSWER_MARK, SECTIONS, TextFormat
from rlhf_e2h.records import SAMPLES
from rlhf_e2h.runner.config import ConfigError, Input
from rlhf_e2h.runner.row_counts import nonzero
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.traits import Traits
from rlhf_e2h.samples.answers import say_missing_answers
from rlhf_e2h.text_formats import FormatSettings, build_format, save_format
from rlhf_e2h.training.models import policy_format

VERSION = 1
TRAITS = Traits(
    order=55,
    about="import samples of another generator",
    runs_model=False,
    seeded=False,
)


@dataclass
class Config:
    """Settings of the `import` stage."""

    data: Input  # output of a prepare stage: the problems that the samples belong to
    samples: Input | None = None  # .jsonl, .json or .parquet file (.gz, .zst too), a folder of them or of save_to_disk
    hub_id: str = ""  # in place of `samples`: a data set of the hub
    hub_split: str = "train"
    hub_revision: str = ""  # commit of it; give one to get the same rows next year
    requests: Input | None = None  # the request file of an OpenAI batch, for custom_ids that are not our problem ids
    split: Literal["train", "validation", "test"] | None = None  # only problems of this split; of all if not given
    # samples a problem: more are left out, and so are problems with fewer; all of them if not given
    n: int | None = None
    policy: Input | None = None  # model that wrote them, whose text format they have
    # text of prompts and solutions; auto: that of `policy`, else sections if texts have an answer section, else \boxed
    format: FormatSettings = field(default_factory=FormatSettings)

    def __post_init__(self) -> None:
        if bool(self.samples) == bool(self.hub_id):
            raise ValueError("import reads `samples` (a file or folder) or `hub_id`; set one of them")
        if self.n is not None and self.n < 1:
            raise ValueError(f"n is {self.n}; it must be at least 1")
        if self.format.name == "chat" and not self.policy:
            raise ValueError("format: chat is read from a tokenizer; set `policy` to the model that wrote the samples")


def main(config: Config, run: StageRun) -> None:
    if not run.is_main:
        return
    splits = [config.split] if config.split else SPLITS
    problems = [row for split in splits for row in read_problems(run.path(config.data), split)]
    requests = read_requests(iter_rows(run.path(config.requests))) if config.requests else {}
    failed: list[str] = []
    generations = list(read_generations(_rows(config, run), requests, failed))
    texts, why = _text_format(config, run, generations)
    run.use_format(texts, why)
    rows, lost = bank_rows(generations, Finder.of(problems), texts, [row["problem_id"] for row in problems], config.n)
    if not rows:
        raise ConfigError(f"{run.name}: {_why_none(generations, lost, len(failed), config)}")
    write_jsonl(run.out / SAMPLES, rows)
    save_format(texts.of_rows(), run.out)
    say_missing_answers(run, rows, texts)
    if lost["unknown_problem"] > len(generations) / 10:
        run.warn(f"{lost['unknown_problem']} of {len(generations)} samples belong to no problem of {config.data}")
    counts = Counter(row["problem_id"] for row in rows)
    run.finish(
        problems=len(counts), solutions=len(rows), finished=sum(row["finished"] for row in rows) / len(rows),
        **nonzero(failed=len(failed), **lost),
    )  # fmt: skip
    if len(set(counts.values())) > 1:
        run.warn(
            f"problems have {min(counts.values())} to {max(counts.values())} samples; voting and best-of-n of an "
            "evaluate stage need the same number: set n"
        )


def bank_rows(
    generations: Iterable[Generation], finder: Finder, texts: TextFormat, order: list[str], n: int | None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows of a sample bank in the order of the problems, and the numbers of samples left out by reason."""
    groups: dict[str, list[Generation]] = {}
    lost = {"unknown_problem": 0, "too_few": 0, "surplus": 0}
    for generation in generations:
        problem_id = finder.find(generation)
        if problem_id is None:
            lost["unknown_problem"] += 1
        else:
            groups.setdefault(problem_id, []).append(generation)
    rows = []
    for problem_id in (name for name in order if name in groups):
        group = groups[problem_id]
        if n is not None and len(group) < n:
            lost["too_few"] += len(group)
            continue
        lost["surplus"] += len(group) - (n or len(group))
        rows += [_row(problem_id, index, entry, texts) for index, entry in enumerate(group[:n])]
    return rows, lost


def _row(problem_id: str, index: int, generation: Generation, texts: TextFormat) -> dict[str, Any]:
    # where the log does not say, a text counts as ended: a cut one then has no answer, or a wrong one
    text, answer, finished = texts.completed(generation.text, generation.finished is not False)
    row = {"problem_id": problem_id, "sample_id": index, "text": text, "answer": answer, "finished": finished}
    return {**row, "system": generation.system} if generation.system else row


def _rows(config: Config, run: StageRun) -> Iterable[Row]:
    if config.hub_id:
        return iter_hub(config.hub_id, config.hub_split, revision=config.hub_revision)
    return iter_rows(run.path(str(config.samples)), config.hub_split)


def _text_format(config: Config, run: StageRun, generations: list[Generation]) -> tuple[TextFormat, str]:
    if config.policy:
        return policy_format(run.path(config.policy), config.format)
    if config.format.name != "auto":
        return build_format(config.format, None, "samples"), "set by `format`"
    marked = sum(ANSWER_MARK in generation.text for generation in generations)
    if 2 * marked > len(generations):
        return SECTIONS, "most texts have an answer section"
    boxed = FormatSettings(template=SECTIONS.template.replace("{problem}", "{{ problem }}"), answer="boxed")
    return build_format(boxed, None, "samples"), "most texts have no answer section"


def _why_none(generations: list[Generation], lost: dict[str, int], failed: int, config: Config) -> str:
    if not generations:
        return f"no text of a solution was found ({failed} failed requests)"
    if lost["too_few"]:
        return f"no problem has n = {config.n} samples; lower n"
    first = generations[0]
    named = f"problem {first.problem[:80]!r}" if first.problem else f"problem_id {first.problem_id!r}"
    return (
        f"none of the {len(generations)} samples belongs to a problem of {config.data}; the first has {named}. Give "
        "the problem's text or the problem_id of the prepare stage, or `requests` for an OpenAI batch"
    )
