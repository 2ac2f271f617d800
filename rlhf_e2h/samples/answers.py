"""Samples without answers, said where the user looks: a policy that writes another format is graded 0 otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_e2h.prompts import TextFormat

if TYPE_CHECKING:
    from rlhf_e2h.runner.runs import StageRun

TAIL = 160  # characters of the example that is shown
WANTED = {"section": "a '# Answer' section", "boxed": "\\boxed{}", "tag": "<answer>"}
TODO = {
    "sections": "a chat model needs `format: chat`, a base model fine-tuning (sft) or exemplars (icl)",
    "minerva": "a chat model needs `format: chat`; exemplars of icl need `format: minerva` too",
}


def missing_answers(rows: Sequence[Mapping[str, Any]], text_format: TextFormat, least: int = 1) -> str | None:
    """What to say of rows (`text`, `answer`, `finished`) where more than half of the finished hold no answer.

    None where there is nothing to say, or fewer finished rows than `least`.
    """
    finished = [row for row in rows if row.get("finished", True)]
    without = [row for row in finished if row["answer"] is None]
    if 2 * len(without) <= len(finished) or len(finished) < least:
        return None
    todo = TODO.get(text_format.name, "ask for it (`instruction` or `system` of the format), or set another `format`")
    text = str(without[0]["text"])
    return (
        f"{len(without)} of {len(finished)} finished samples hold no answer: format {text_format.name} asks for "
        f"{WANTED[text_format.answer_rule]}, and the first ends {'...' * (len(text) > TAIL) + text[-TAIL:]!r}; {todo}"
    )


def say_missing_answers(
    run: StageRun, rows: Sequence[Mapping[str, Any]], text_format: TextFormat, policy: str = "", least: int = 1
) -> None:
    """Warn in the log and beneath the stage's line where `missing_answers` has something to say."""
    found = missing_answers(rows, text_format, least)
    if found:
        run.warn(f"{policy}: {found}" if policy else found)
