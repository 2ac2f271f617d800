"""MetaMATH (Yu et al. 2023, arXiv 2309.12284): problems of MATH and GSM8K reworded, solved by ChatGPT.

A row has `type` (MATH_Rephrased, GSM_SV, ...), `query`, `original_question` and `response`, which ends in
`The answer is: 5`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reward_models.conversational import ANSWER_PHRASE
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.solutions import Solution
from rlhf_e2h.data.sources import Source
from rlhf_e2h.data.steps import solution_steps
from rlhf_e2h.prompts import SECTIONS


def read_metamath(rows: Iterable[Row], gsm8k: bool = True) -> Iterator[Solution]:
    """Solutions from MetaMATH rows, matched by `original_question`; GSM8K rows count as easy, or are left out.

    A response without an answer is not `complete`, so it is never trained on.

    Raises:
        BadRecord: a field is missing or empty.
    """
    for index, row in enumerate(rows):
        from_math = "MATH" in row.text("type").upper()
        if not from_math and not gsm8k:
            continue
        steps, answer = response_steps(row.text("response"))
        if answer:
            steps.append(f"{SECTIONS.answer_mark}{SECTIONS.separator}{answer}")
        query = row.text("query")
        original = row.text("original_question") if "original_question" in row.fields else query
        yield Solution(
            f"metamath-{index:06d}", original, query, tuple(steps), None, bool(answer), easy_source=not from_math
        )


def response_steps(response: str) -> tuple[list[str], str]:
    """(steps, answer) of a response; the answer is empty if there is none. A `#### 5` line repeats it and goes."""
    text, phrase, answer = response.rpartition(ANSWER_PHRASE)
    if not phrase:
        text, answer = response, ""
    return solution_steps(text.partition("####")[0]), answer.partition("####")[0].strip()


SOURCE = Source(
    "metamath",
    solutions=lambda rows, settings: read_metamath(rows, settings.with_gsm8k),
    counts=(390_000, 0, 0),
    step_records=390_000,
)
