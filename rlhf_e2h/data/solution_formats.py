"""Five ways to write the same solution, and the answer read back from each.

After the formats of Lee et al. 2023 (arXiv 2307.03381), for solutions of steps and an answer:

| format | text |
|---|---|
| answer | the answer only |
| reversed | the answer only, its digits from the last to the first: the reverse format of Lee et al. |
| reverse | the answer first, then the steps |
| simplified | what each step comes to (the text behind its last `=`, with the name before its first), then the answer |
| full | every step, then the answer: the format of the rest of the project |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rlhf_e2h.prompts import SECTIONS, TextFormat

Format = Literal["full", "simplified", "reverse", "reversed", "answer"]
FORMATS: tuple[Format, ...] = ("full", "simplified", "reverse", "reversed", "answer")


def render(steps: Sequence[str], answer: str, form: Format, text_format: TextFormat = SECTIONS) -> str:
    """The completion in a format. `steps` are those before the answer."""
    mark = text_format.answer_step(answer[::-1] if form == "reversed" else answer)
    if form in ("answer", "reversed"):
        return mark
    if form == "reverse":
        return text_format.separator.join([mark, *steps])
    if form == "simplified":
        return text_format.solution([simplified(step) for step in steps], answer)
    if form == "full":
        return text_format.solution(steps, answer)
    raise ValueError(f"format {form!r} is not known; use one of {', '.join(FORMATS)}")


def rewrite(solution: str, form: Format, text_format: TextFormat = SECTIONS) -> str:
    """A written solution (steps, then the answer section) in another form and in the words of a text format.

    Raises:
        ValueError: the solution does not end with exactly one answer section.
    """
    if form == "full":
        return text_format.exemplar(solution)
    answer = SECTIONS.section_answer(solution)
    if answer is None:
        raise ValueError(f"the solution {solution[-60:]!r} has no single answer section; prepare writes one")
    return render(SECTIONS.split_steps(solution)[:-1], answer, form, text_format)


def simplified(step: str) -> str:
    """`p=4+3=2` becomes `p=2`; a step without two signs of equality stays as it is."""
    parts = [part.strip() for part in step.split("=")]
    return f"{parts[0]}={parts[-1]}" if len(parts) > 2 else step


def read_answer(text: str, form: Format, text_format: TextFormat = SECTIONS) -> str | None:
    """The answer in a completion of a format; None without one."""
    if form != "reverse":
        answer = text_format.answer(text)
        return answer[::-1] if answer and form == "reversed" else answer
    if text_format.answer_rule != "section":  # the first step gives it
        return text_format.answer(text.split(text_format.separator)[0])
    if text.count(text_format.answer_mark) != 1 or not text.startswith(text_format.answer_mark):
        return None
    after = text.removeprefix(text_format.answer_mark).removeprefix(text_format.separator)
    return after.split(text_format.separator)[0].strip() or None
