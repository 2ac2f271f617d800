"""Steps of a reference solution: where a text written as prose is cut, so that it can be read step by step.

The rules follow the paper's released converter (a newline, the end of a sentence or of a displayed formula closes a
step; a comma before it, or a title such as "Dr.", does not), except that no formula, environment or figure is ever cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhf_e2h.prompts import SECTIONS, TextFormat

_DISPLAYED = r"\[asy\].*?\[/asy\]|\\\[.*?\\\]|\$\$.*?\$\$|\\begin\{(?P<env>[a-zA-Z]+\*?)\}.*?\\end\{(?P=env)\}"
# Dollar signs are formulas or money. Pandoc's rule tells them apart: no blank after the first sign, none before the
# second, no digit after it ("$5 and $10" is money). A formula that has blanks at its ends or runs over a line end must
# hold a command, ^ or _; one with a blank first may hold "=" instead. No inline formula holds a blank line.
_LINE = r"(?:\\.|[^$\\\n])*?"
_LINES = r"(?:\\.|[^$\\\n]|\n(?!\s*\n))*?"
_DOLLARS = rf"(?<!\\)\$(?:(?!\s){_LINE}(?<!\s)|(?=[^$]*[\\^_]){_LINES}|(?=\s[^$]*=){_LINE})\$(?!\d)"
_INLINE = rf"\\\(.*?\\\)|{_DOLLARS}"
_PROTECTED = re.compile(f"(?P<displayed>{_DISPLAYED})|{_INLINE}", re.DOTALL)
_FORMULA = "\ufffc"  # stands for every character of a protected span while looking for cuts
_CLOSING = r"(?:\\\]|\\\)|\$\$?|\\end\{[a-zA-Z]+\*?\}|\}|\s)*$"
_STOP_INSIDE = re.compile(r"[.!?]" + _CLOSING)

_SENTENCE_END = re.compile(rf"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9\\{_FORMULA}])")
_LINE_END = re.compile(r"[^\S\n]*\n\s*")
_TITLE = re.compile(r"(?:^|[\s(~])(?:Mr|Mrs|Ms|Dr|St|Prof|Jr|Sr|vs|cf|Eq|Fig|e\.g|i\.e|[A-Z])\.$")
_ITEM_NUMBER = re.compile(r"(?:^|\n)\s*\(?\d{1,2}\.$")


def solution_text(solution: str, answer: str, text_format: TextFormat = SECTIONS) -> str:
    """The solution as a policy should write it: steps, then the answer section. A text in that form stays as it is."""
    if text_format.section_answer(solution) == answer:
        return solution
    return text_format.solution(solution_steps(solution), answer)


def solution_steps(solution: str) -> list[str]:
    """The steps of a solution, shape (S,), without an answer section.

    Nothing but whitespace is lost, and no step is empty or holds a blank line: joined by the separator and split again
    they are the same steps.
    """
    steps: list[str] = []
    start = 0
    for end in [*_cuts(solution), len(solution)]:
        segment = _tidy(solution[start:end])
        start = end
        if re.search(r"\w", segment):
            steps.append(segment)
        elif segment and steps:  # a stray bracket or quotation mark belongs to what it closes
            steps[-1] += " " + segment
        elif segment:
            steps.append(segment)
    return steps


def _cuts(text: str) -> list[int]:
    """Offsets after which a new step begins."""
    masked, displayed_ends = _mask(text)
    return sorted({*_sentence_cuts(masked), *_line_cuts(masked, text), *_display_cuts(masked, text, displayed_ends)})


def _mask(text: str) -> tuple[str, list[int]]:
    """The text with formulas blanked out, equally long, and the offsets at which displayed formulas end.

    A full stop at the end of an inline formula (`$x = 2.$`) ends a sentence, so it stays visible.
    """
    pieces, ends, position = [], [], 0
    for match in _PROTECTED.finditer(text):
        inner = _FORMULA * (len(match[0]) - 1)
        displayed = match["displayed"] is not None
        pieces += [text[position : match.start()], inner, "." if _STOP_INSIDE.search(match[0]) else _FORMULA]
        position = match.end()
        if displayed:
            ends.append(position)
    return "".join(pieces) + text[position:], ends


def _sentence_cuts(masked: str) -> Iterator[int]:
    for match in _SENTENCE_END.finditer(masked):
        before = masked[max(0, match.start() - 12) : match.start() + 1]
        if not _TITLE.search(before) and not _ITEM_NUMBER.search(before):
            yield match.end()


def _line_cuts(masked: str, text: str) -> Iterator[int]:
    for match in _LINE_END.finditer(masked):
        before, after = masked[: match.start()].rstrip()[-1:], text[match.end() : match.end() + 6]
        opens_display = after.startswith(("\\[", "$$", "\\begin", "[asy]"))
        if before in (",", ":") or after[:1].islower() or (opens_display and before not in (".", "!", "?")):
            continue  # the sentence goes on
        yield match.end()


def _display_cuts(masked: str, text: str, ends: list[int]) -> Iterator[int]:
    for end in ends:
        after = text[end:].lstrip()[:1]
        if masked[end - 1] == "." or after.isupper():
            yield end


def _tidy(segment: str) -> str:
    """No space around, no blank line inside (figures have some)."""
    return re.sub(r"[^\S\n]*\n\s*\n", "\n", segment.strip())
