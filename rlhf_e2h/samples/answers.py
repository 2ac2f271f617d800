"""Samples without answers or ends, said where the user looks: they are graded 0 otherwise, and nobody knows why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reward_models.lengths import WARN
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


def unfinished(rows: Sequence[Mapping[str, Any]], max_new_tokens: int) -> str | None:
    """What to say of samples (`finished`) of which more than a tenth reached no end token; else None."""
    cut = sum(not row["finished"] for row in rows)
    if cut <= WARN * len(rows):
        return None
    todo = "raise it"
    if cut == len(rows):
        todo += (
            "; where texts end and then go on, the policy never writes its end token: fine-tune it (sft), give `stop`, "
            "or correct eos_token_id of its generation_config.json"
        )
    return f"{cut} of {len(rows)} samples were cut at max_new_tokens={max_new_tokens} before an end token; {todo}"


def say_unfinished(run: StageRun, rows: Sequence[Mapping[str, Any]], max_new_tokens: int, policy: str = "") -> None:
    """Warn in the log and beneath the stage's line where `unfinished` has something to say."""
    if rows and (found := unfinished(rows, max_new_tokens)):
        run.warn(f"{policy}: {found}" if policy else found)
