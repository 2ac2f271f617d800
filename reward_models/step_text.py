"""The one rule by which a solution's text becomes steps. Pure text, so that every caller can afford it.

Policy, reward model, server and report cut through this module, so a text has the same steps wherever it is read.
"""

from __future__ import annotations

import re
from functools import cache


def split_steps(text: str, separator: str, answer_mark: str = "") -> list[str]:
    """Steps of a solution text, shape (S,), S >= 1; joined with the separator they give the text again.

    From the first step that opens the answer section on (see `opens_answer`), everything is one step. Empty steps are
    kept: a policy that writes them must be seen to do so. Without a separator the text is one step.
    """
    if not separator:
        return [text]
    parts = text.split(separator)
    for index, part in enumerate(parts):
        if opens_answer(part, answer_mark):
            return [*parts[:index], separator.join(parts[index:])]
    return parts


def step_ends(text: str, separator: str, answer_mark: str = "") -> list[int]:
    """Character offset in `text` at which each step ends (exclusive), shape (S,)."""
    ends, position = [], 0
    for step in split_steps(text, separator, answer_mark):
        position += len(step)
        ends.append(position)
        position += len(separator)
    return ends


def opens_answer(step: str, answer_mark: str) -> bool:
    """Whether a step is the answer section: its first line is the mark alone, or the mark and a colon.

    "# Answer" and "# Answer: 12" are, "# Answers vary" and "so # Answer" are not. Line breaks that three or more of
    them in a row leave before the mark do not hide it.
    """
    return bool(answer_mark) and _mark_line(answer_mark).match(step.lstrip("\n")) is not None


def answers(text: str, answer_mark: str) -> list[str]:
    """What stands after each answer mark of a text, up to its end, blanks stripped.

    Marks that stand alone on their line are taken, and only without any such one those inside sentences.
    """
    ends = [found.end() for found in _mark_line(answer_mark).finditer(text)]
    if not ends:
        ends = [found.end() for found in re.finditer(re.escape(answer_mark), text)]
    return [text[end:].strip() for end in ends]


def cut_answer(text: str, answer_mark: str) -> tuple[str, str | None]:
    """What comes before the first mark with nothing after it on its line, and the rest; None without such a mark.

    For raw records, in which the mark may be glued to the sentence before it: "It is 5.# Answer\\n\\n5".
    """
    found = re.search(rf"{re.escape(answer_mark)}[ \t]*(?::|$)", text, re.MULTILINE)
    return (text, None) if found is None else (text[: found.start()], text[found.start() :])


@cache
def _mark_line(answer_mark: str) -> re.Pattern[str]:
    alone = "" if answer_mark.endswith(":") else r"[ \t]*(?::|$)"
    return re.compile(f"^{re.escape(answer_mark)}{alone}", re.MULTILINE)


def is_unsplit(text: str, separator: str) -> bool:
    """Whether a text has three lines or more and no separator: its steps are joined by something else.

    A process reward model would score it as one step, without a word.
    """
    return bool(separator) and separator not in text and text.strip().count("\n") >= 2


def normalise_newlines(text: str) -> str:
    """Every line ends in "\\n": Windows' "\\r\\n" would hide the blank line between two steps."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
