"""What the stages that learn in rounds (dpo, rest) read: problems, labels, a reward model, and samples that are there.

A round needs solutions of the policy with which it begins. Those of the first round may have been sampled already, for
an outcome reward model or for another method: `samples` names them, so that they are paid for once. They are a `sample`
stage of the same policy, or the file that a `rerank` stage made of one (`"@score_train/scored_prm.jsonl"`), whose
scores are used where its reward model is the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from rlhf_e2h.data.firewall import Label, read_problems
from rlhf_e2h.data.levels import choose
from rlhf_e2h.records import SAMPLES, Scored, read_rows
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.run_files import SETTINGS, read_done
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.samples.bank import Decoding, Row
from rlhf_e2h.samples.judged import Judges, by_problem
from rlhf_e2h.samples.rounds import Rounds
from rlhf_e2h.text_formats import FormatSettings, format_of


class RoundConfig(Protocol):
    """The settings of such a stage that are about what it reads."""

    policy: str
    data: str
    reward_model: str | None
    aggregation: str
    labels: Any
    levels: list[int] | None
    samples: str | None
    keep: Any
    eval_problems: int
    decoding: Decoding
    format: FormatSettings


def open_rounds(config: RoundConfig, run: StageRun, title: str) -> tuple[Rounds, list[Row]]:
    """The rounds, and the train problems whose solutions they judge.

    Without a reward model nobody can judge a problem whose answer may not be read; with `labels: hard` easy problems
    are not asked for. Both are left out.

    Raises:
        ConfigError: no problem is left, or samples of another policy, format or reward model.
    """
    data = run.path(config.data)
    labels = run.labels(data, config.labels, splits=("train",))
    pool = choose(read_problems(data, "train"), config.levels, None)
    if config.reward_model is None or config.labels == "hard":
        pool = [problem for problem in pool if problem["problem_id"] in labels]
    if not pool:
        raise ConfigError(
            f"{run.name}: no train problem of levels {config.levels} has an answer among the {config.labels} labels; "
            "check `levels` and prepare, or name a reward_model, which judges without answers"
        )
    reward_model = None if config.reward_model is None else run.path(config.reward_model)
    judges = Judges(labels, reward_model, config.aggregation)
    rounds = Rounds(run, run.path(config.policy), title, config.decoding, judges, config.format)
    if config.samples:
        rounds.bank = by_problem(_given(config, run, rounds))
        missing = sum(problem["problem_id"] not in rounds.bank for problem in pool)
        if missing == len(pool):
            raise ConfigError(f"{run.name}: samples {config.samples!r} has no solution of these {len(pool)} problems")
        run.finish(without_samples=missing)
    if config.keep == "best":
        rounds.validation = _validation(config, run, data)
    return rounds, pool


def _validation(config: RoundConfig, run: StageRun, data: Path) -> tuple[list[Row], dict[str, Label]]:
    """Easy validation problems with their labels: the only ones that may choose a round."""
    labels = run.labels(data, "easy", "selection", splits=("validation",))
    known = [row for row in read_problems(data, "validation") if row["problem_id"] in labels]
    if not known:
        raise ConfigError(f"{run.name}: keep is best, but prepare wrote no easy validation problems; set keep: last")
    return choose(known, None, config.eval_problems), labels


def _given(config: RoundConfig, run: StageRun, rounds: Rounds) -> list[Row]:
    """The rows of `samples`, with scores only where they are of this stage's reward model."""
    reference = str(config.samples)
    path = run.path(reference)
    file = path / SAMPLES if path.is_dir() else path
    rows = read_rows(file, Scored, ("problem_id", "sample_id", "text", "answer", "finished"))
    sampled, scored = _origin(run.inputs[reference][0].folder, run.run_folder)
    if sampled and _digest(sampled, "policy") != run.inputs[config.policy][0].digest:
        raise ConfigError(
            f"{run.name}: samples {reference!r} are of another policy than {config.policy!r}; name those of the policy "
            "that this stage starts from, or leave `samples` out"
        )
    made = format_of(sampled or file.parent)
    if made != rounds.text_format.of_rows():
        raise ConfigError(
            f"{run.name}: samples {reference!r} are in text format {made.name}, the policy's is "
            f"{rounds.text_format.name}; sample them with the same `format`"
        )
    if config.reward_model and rows and "step_scores" in rows[0]:
        known = (read_done(scored) or {}).get("inputs", {}).values() if scored else ()
        if not any(run.inputs[config.reward_model][0].digest in digests for digests in known):
            run.warn(
                f"the scores in {reference!r} are of another reward model; {config.reward_model!r} scores them anew"
            )
            rows = [{key: value for key, value in row.items() if key != "step_scores"} for row in rows]
    return rows


def _origin(folder: Path | None, run_folder: Path) -> tuple[Path | None, Path | None]:
    """The folders of the `sample` stage and, if there is one, of the `rerank` stage that samples come from."""
    done = read_done(folder) if folder else None
    if folder is None or done is None:
        return None, None
    if done["stage"] != "rerank":
        return folder, None
    upstream = [run_folder / name for name in done["upstream"]]
    return next((one for one in upstream if (read_done(one) or {}).get("stage") == "sample"), None), folder


def _digest(folder: Path, setting: str) -> str | None:
    """Digest of what a finished stage read under a setting."""
    reference = json.loads((folder / SETTINGS).read_text(encoding="utf-8")).get(setting)
    found: list[str] = (read_done(folder) or {}).get("inputs", {}).get(reference, [])
    return found[0] if found else None
