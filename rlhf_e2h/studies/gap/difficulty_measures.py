"""Measures of difficulty that need no training, and how far measures agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from rlhf_e2h.encoding import encode_prompts
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.records import Row
from rlhf_e2h.studies.gap.slices import groups_of

MEASURES = "difficulty.jsonl"  # what a difficulty stage writes: a problem a row

COUNTS = ("question_num_words", "answer_num_chars", "answer_num_words", "reasoning_num_words", "num_steps")
LIKELIHOODS = ("question_nll", "reasoning_nll", "answer_nll")


def counted(problem: str, answer: str | None, solution: str | None) -> Row:
    """Words, characters and steps; None for what needs the solution where it is not known."""
    row: Row = dict.fromkeys(COUNTS)
    row["question_num_words"] = len(problem.split())
    if answer is not None and solution is not None:
        steps = [step for step in SECTIONS.split_steps(solution) if not SECTIONS.opens_answer(step)]
        row |= {"answer_num_chars": len(answer), "answer_num_words": len(answer.split())}
        row |= {"reasoning_num_words": len(" ".join(steps).split()), "num_steps": len(steps)}
    return row


@torch.inference_mode()
def likelihoods(
    model: Any, tokenizer: Any, problem: str, solution: str | None, text_format: TextFormat = SECTIONS
) -> Row:
    """Minus the log-likelihood in nats of the question, of the reasoning after it, and of the answer after both.

    A token counts for the part in which it begins; the first token has no context and counts for none. `solution` is
    in sections, and is read as the text format writes it.
    """
    prompt = text_format.prompt(problem)
    solution = None if solution is None else text_format.exemplar(solution)
    text = prompt + (solution or "")
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    [whole] = encode_prompts(tokenizer, [text])
    before = len(whole) - len(encoded["input_ids"])  # special tokens that the text itself does not have
    starts = np.array([0] * before + [start for start, _ in encoded["offset_mapping"]])[1:]
    ids = torch.tensor([whole], device=model.device)
    logprobs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].float(), dim=-1)
    nll_T = -logprobs.gather(1, ids[0, 1:, None])[:, 0].cpu().numpy()
    question = prompt.index(problem)
    row: Row = {"question_nll": _sum(nll_T, starts, question, question + len(problem))}
    if solution is None:
        return row | {"reasoning_nll": None, "answer_nll": None}
    answer = len(prompt) + text_format.answer_start(solution)
    return row | {
        "reasoning_nll": _sum(nll_T, starts, len(prompt), answer),
        "answer_nll": _sum(nll_T, starts, answer, len(text)),
    }


def _sum(nll_T: NDArray[np.floating], starts: NDArray[np.integer], begin: int, end: int) -> float:
    return float(nll_T[(starts >= begin) & (starts < end)].sum())


def with_groups(rows: Sequence[Row], measures: Sequence[str]) -> dict[str, str]:
    """Add `MEASURE_group` (easy, medium, hard by quantiles) to the rows in place; measures without groups: why."""
    reasons = {}
    for measure in measures:
        known = [row for row in rows if row.get(measure) is not None]
        try:
            groups = groups_of([row[measure] for row in known])
        except ValueError as error:
            reasons[measure] = str(error)
            continue
        for row, group in zip(known, groups, strict=True):
            row[f"{measure}_group"] = group
    return reasons


def spearman(rows: Sequence[Row], measures: Sequence[str]) -> list[Row]:
    """Rank correlation of every pair of measures over the problems that have both; null with a reason."""
    found = []
    for one in measures:
        for other in measures:
            pairs = [(r[one], r[other]) for r in rows if r.get(one) is not None and r.get(other) is not None]
            found.append({"measure": one, "with": other, "problems": len(pairs), **_rho(pairs)})
    return found


def _rho(pairs: Sequence[tuple[float, float]]) -> Mapping[str, Any]:
    if len(pairs) < 3:
        return {"rho": None, "null_because": f"{len(pairs)} problems have both measures"}
    a, b = np.array(pairs, dtype=np.float64).T
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return {"rho": None, "null_because": "a measure is the same for all problems"}
    return {"rho": float(spearmanr(a, b).statistic), "null_because": None}
