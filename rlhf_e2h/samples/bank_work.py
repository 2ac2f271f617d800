"""Sampling and scoring of many problems on all processes: one engine or scorer each, saved block by block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from math import ceil
from pathlib import Path
from typing import Any

from reward_models.score import Scorer
from rlhf_e2h.parallel.blocks import Parts, Rank, Spend, in_blocks
from rlhf_e2h.parallel.processes import release_memory
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runner.progress import Bar
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.samples.bank import BankSampler, Decoding, FormatOf, Row, check_fit, score
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.flops import forward_flops
from rlhf_e2h.training.models import DTYPES, Policy, open_policy
from rlhf_e2h.training.precision import sampling_dtype
from rlhf_e2h.training.spent import architecture

# Operations a second of one process that has its cores to itself, by engine and device: two CPU cores have sampled 39
# tokens a second from 0.5 billion weights. A slower one makes smaller blocks after its first (`blocks.SAVE_SECONDS`);
# but none is smaller than what is decoded together (`batch_size`).
RATES = {("hf", "cpu"): 4e10, ("hf", "cuda"): 2e13, ("vllm", "cpu"): 4e10, ("vllm", "cuda"): 1e14}
BLOCK_SECONDS = 100.0  # what a block is meant to take at that rate
SCORED_TOKENS = 500  # in a solution, to choose the size of a block
MOST = 4096  # solutions in a block


def sample_bank(
    run: StageRun,
    policy: Path,
    problems: Sequence[Row],
    decoding: Decoding,
    seed: int,
    rank: Rank,
    name: str,
    most: int = MOST,
    text_format: FormatSettings | None = None,
) -> Parts:
    """Samples of all problems, on all processes, as parts below the stage's scratch folder; see `bank.sample`.

    The policy is opened once on each process, and gone from memory afterwards.

    Args:
        name: of the parts' folder and of the progress bar.
        most: problems in a block.
        text_format: of the policy, where it is not its own.

    Raises:
        ConfigError: prompts that do not fit the model with `max_new_tokens`.
    """
    with run.progress(len(problems) * decoding.n, name, "solutions") as bar:
        opened = open_policy(policy, sampling_dtype(policy), rank.device, text_format)
        check_fit(f"{run.name}: {name}", opened, problems, decoding.max_new_tokens)
        parts = _sampled(opened, problems, decoding, seed, rank, _folder(run, name), bar, most)
        del opened
    release_memory()
    return parts


def _sampled(
    policy: Policy, problems: Sequence[Row], decoding: Decoding, seed: int, rank: Rank, folder: Path, bar: Bar,
    most: int,
) -> Parts:  # fmt: skip
    together = min(most, ceil(decoding.batch_size / decoding.n), ceil(len(problems) / rank.num_processes) or 1)
    size = min(most, max(together, block_of_problems(policy.model, decoding)))
    with closing(BankSampler(policy, decoding)) as sampler:

        def work(start: int, end: int, spend: Spend) -> Sequence[Row]:
            return sampler.sample(problems[start:end], seed, bar.advance, spend, start * decoding.n)

        # A smaller batch takes nearly as long, since reading the weights is most of a decoding step.
        return in_blocks(
            folder, len(problems), size, rank, work, lambda done: bar.update(done * decoding.n), least=together
        )


def score_bank(
    run: StageRun,
    rows: Sequence[Row],
    problems: Mapping[str, Row],
    model: Path,
    rank: Rank,
    name: str,
    reward_model: str,
    max_tokens_per_batch: int = 16384,
    text_format: FormatOf = SECTIONS,
) -> Parts:
    """The rows with scores of a reward model, on all processes; see `bank.score`.

    The model is opened once on each process, and gone from memory afterwards.
    """
    with run.progress(len(rows), name, "solutions") as bar:
        parts = _scored(
            rows, problems, model, rank, _folder(run, name), bar, reward_model, max_tokens_per_batch, text_format
        )
    release_memory()
    return parts


def _scored(
    rows: Sequence[Row], problems: Mapping[str, Row], model: Path, rank: Rank, folder: Path, bar: Bar,
    reward_model: str, max_tokens_per_batch: int, text_format: FormatOf,
) -> Parts:  # fmt: skip
    scorer = Scorer.from_pretrained(model, rank.device, DTYPES[sampling_dtype(model)], max_tokens_per_batch)

    def work(start: int, end: int, spend: Spend) -> Sequence[Row]:
        return score(rows[start:end], problems, scorer, reward_model, bar.advance, text_format, spend)

    return in_blocks(folder, len(rows), block_of_solutions(scorer.model), rank, work, bar.update)


def block_of_problems(model: Any, decoding: Decoding) -> int:
    """Problems to sample before the next saving: less than two minutes' work.

    Computed from sizes and not measured, so that blocks, and with them the last digits, are the same in every run.
    """
    rate = RATES.get((decoding.engine.name, model.device.type), RATES["hf", "cpu"])
    tokens = decoding.n * decoding.max_new_tokens
    flops = forward_flops(architecture(model), tokens, decoding.max_new_tokens / 2, tokens)
    return _bounded(BLOCK_SECONDS * rate / flops)


def block_of_solutions(model: Any) -> int:
    """The same for scoring, which reads all tokens at once."""
    rate = 10 * RATES.get(("hf", model.device.type), RATES["hf", "cpu"])
    return _bounded(BLOCK_SECONDS * rate / forward_flops(architecture(model), SCORED_TOKENS, SCORED_TOKENS / 2, 0))


def _folder(run: StageRun, name: str) -> Path:
    return run.scratch / re.sub(r"\W+", "_", name)


def _bounded(items: float) -> int:
    return max(1, min(MOST, int(items)))
