"""Rounds of sampling, judging and training, as iterative DPO and ReST-EM make them; a killed stage resumes in a round.

What a round has sampled and what it has trained are kept in the stage's scratch folder. Each round starts from files,
also in a run that was never killed, so that both come out the same.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.parallel.processes import join, wait_for_all
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.samples.answers import say_unfinished
from rlhf_e2h.samples.bank import Decoding, Row, grade
from rlhf_e2h.samples.bank_work import sample_bank, score_bank
from rlhf_e2h.samples.judged import Judges, judged
from rlhf_e2h.samples.unsplit import report_unsplit
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.models import Policy, open_policy, policy_format, save_policy


def problems_of_round(pool: list[Row], count: int | None, number: int) -> list[Row]:
    """Problems at equal distances, from another start each round; a pool in order of levels gives some of each."""
    if count is None or count >= len(pool):
        return pool
    stride = max(1, len(pool) // count)
    return [pool[(number + i * stride) % len(pool)] for i in range(count)]


def best_round(accuracies: Sequence[float]) -> int:
    """The round with the best accuracy on easy validation problems; of equal ones the last, which has seen most."""
    return max(range(len(accuracies)), key=lambda number: (accuracies[number], number))


class Rounds:
    """The rounds of one stage: `policy(n)` samples in round n, `keep(n, ...)` is what that round trained."""

    def __init__(
        self,
        run: StageRun,
        start: Path,
        title: str,
        decoding: Decoding,
        judges: Judges,
        text_format: FormatSettings | None = None,
    ) -> None:
        self.run, self.start, self.title, self.settings = run, start, title, text_format
        self.text_format, why = policy_format(start, text_format)
        run.use_format(self.text_format, why)
        self.decoding, self.judges = decoding, judges
        self.bank: dict[str, list[Row]] = {}  # samples of the first round that are there already, by problem
        self.validation: tuple[list[Row], Mapping[str, Label]] | None = None  # easy problems that choose a round
        self._accuracies: list[float] = []

    def policy(self, number: int, quantization: Any = None) -> Policy:
        """The policy with which round `number` begins, to be trained."""
        return open_policy(self._start_of(number), text_format=self.settings, quantization=quantization)

    def begin(self, number: int) -> bool:
        """Whether round `number` has still to be trained; of one trained before a kill the record is replayed."""
        folder = self._folder(number)
        if (folder / "config.json").is_file():
            self._replay(folder.name)
            return False
        self._mark()
        return True

    def problems(self, pool: list[Row], count: int | None, number: int) -> list[Row]:
        """Those of round `number`: see `problems_of_round`. A given bank says which the first round may ask."""
        asked = pool if number or not self.bank else [row for row in pool if row["problem_id"] in self.bank]
        return problems_of_round(asked, count, number)

    def judged(self, number: int, problems: Sequence[Row], seed: int) -> list[Row]:
        """Samples of round `number` with `rm` and `correct`, from the scratch folder if they are there."""
        file = self.run.scratch / f"judged_{number}.jsonl"
        if file.is_file():
            self._replay(file.stem)
            return read_jsonl(file)
        self._mark()
        rank, title, model, parts = join(), f"{self.title} {number + 1}:", self.judges.reward_model, []
        if self.bank and number == 0:
            rows = [row for problem in problems for row in self.bank[problem["problem_id"]][: self.decoding.n]]
        else:
            parts.append(
                sample_bank(
                    self.run, self._start_of(number), problems, self.decoding, seed, rank, f"{title} sampling",
                    text_format=self.settings,
                )
            )  # fmt: skip
            rows = list(parts[0].rows())
        if model is not None and not all("step_scores" in row for row in rows):
            known = {problem["problem_id"]: problem for problem in problems}
            parts.append(
                score_bank(
                    self.run, rows, known, model, rank, f"{title} scoring", "rm",
                    text_format=self.text_format.of_rows(),
                )
            )  # fmt: skip
        if self.run.is_main:
            for part in parts:
                part.spend(self.run.spend)
            report_unsplit(self.run, rows, [model] if model else [])
            if not (self.bank and number == 0):
                say_unfinished(self.run, rows, self.decoding.max_new_tokens, f"{self.title} {number + 1}")
            self._record(file.stem)
            write_jsonl(file, judged(list(parts[-1].rows()) if parts else rows, self.judges))
        wait_for_all()
        if self.run.is_main:
            for part in parts:
                shutil.rmtree(part.folder)
        return read_jsonl(file)

    def keep(self, number: int, model: Any, tokenizer: Any) -> None:
        """Save what round `number` trained, adapters merged; it is there completely or not at all."""
        if self.run.is_main:
            folder = self._folder(number)
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            save_policy(model, tokenizer, partial, self.text_format)
            self._record(folder.name)
            os.replace(partial, folder)
            # the next round's trainer must not take this round's checkpoint for its own
            shutil.rmtree(self.run.scratch / "trainer", ignore_errors=True)
        PartialState().wait_for_everyone()

    def validate(self, number: int) -> None:
        """Greedy accuracy of what round `number` trained, if easy validation problems choose a round; not counted as a
        cost of the stage."""
        if self.validation is None:
            return
        problems, labels = self.validation
        file = self.run.scratch / f"validated_{number}.jsonl"
        if file.is_file():
            self._replay(file.stem)
        else:
            self._mark()
            greedy = replace(self.decoding, n=1, temperature=0.0)
            parts = sample_bank(
                self.run, self._folder(number), problems, greedy, 0, join(), f"{self.title} {number + 1}: validation",
                text_format=self.settings,
            )  # fmt: skip
            if self.run.is_main:
                rows = grade(list(parts.rows()), labels)
                accuracy = sum(row["correct"] for row in rows) / len(rows)
                self.run.log({"eval/accuracy_easy": accuracy}, step=number)
                self._record(file.stem)
                write_jsonl(file, rows)
            wait_for_all()
            if self.run.is_main:
                shutil.rmtree(parts.folder)
        rows = read_jsonl(file)
        self._accuracies.append(sum(row["correct"] for row in rows) / len(rows))

    def finish(self, rounds: int) -> None:
        """Make the model of the last round, or of the best one, the stage's output."""
        chosen = best_round(self._accuracies) if self._accuracies else rounds - 1
        if self._accuracies:
            self.run.finish(round=chosen + 1, **{"eval/accuracy_easy": self._accuracies[chosen]})
        if self.run.is_main:
            shutil.copytree(self._folder(chosen), self.run.out, dirs_exist_ok=True)

    def _mark(self) -> None:
        self._before = self.run.tokens, self.run.flops, len(self._rows())

    def _record(self, name: str) -> None:
        """Keep what has been logged and spent since the mark; written before what it belongs to, so never missing."""
        tokens, flops, rows = self._before
        spent = {"tokens": self.run.tokens - tokens, "flops": self.run.flops - flops, "results": self.run.results}
        write_json(self.run.scratch / f"{name}.json", {**spent, "rows": self._rows()[rows:]})

    def _replay(self, name: str) -> None:
        """Log and spend it again, so that metrics.jsonl and the costs are those of a run that was never killed."""
        file = self.run.scratch / f"{name}.json"
        if not file.is_file():  # left by a version that kept none
            return
        record = json.loads(file.read_text(encoding="utf-8"))
        for row in record["rows"]:
            self.run.log({key: value for key, value in row.items() if key != "step"}, row.get("step"))
        self.run.spend(record["tokens"], record["flops"])
        self.run.finish(**record.get("results", {}))  # rows lost to a limit of tokens, counted over the rounds

    def _rows(self) -> list[Row]:
        """What this run has logged; only the main process has a file of it."""
        return read_jsonl(self.run.out / "metrics.jsonl") if self.run.is_main else []

    def _start_of(self, number: int) -> Path:
        return self._folder(number - 1) if number else self.start

    def _folder(self, number: int) -> Path:
        return self.run.scratch / f"round_{number}"
