r"""The one reader of answers: the last `\boxed{...}`, `# Answer` section, `<answer>`, `####`, "the answer is ..."."""

from __future__ import annotations

import re
from typing import NamedTuple

from rlhf_e2h.checker.prose import is_bare, last_mathematics, sentence
from rlhf_e2h.checker.turns import own_words

# `# Answer` alone on its line or with a colon, also after other text: `so 12. # Answer: 12`; not "# Answers vary".
_NAME = r"(?:The[ \t]+)?(?:(?:Final|Correct)[ \t]+)?Answer(?:[ \t]+is)?"
_BOLD = r"[ \t]*(?:\*\*|__)?[ \t]*"
_SECTION = re.compile(
    rf"(?<!#)#{{1,6}}{_BOLD}{_NAME}{_BOLD}(?:[:：]{_BOLD}|$)"
    rf"|(?:(?<!\*)\*\*|(?<!_)__)[ \t]*{_NAME}{_BOLD}(?:[:：]{_BOLD}|$)"
    r"|^[ \t]*(?:The[ \t]+)?Final[ \t]+Answer[ \t]*$|^[ \t]*Answer[ \t]*$",
    re.M | re.I,
)
_TAG = re.compile(r"<(?:final_?)?answer>", re.I)
_TAG_END = re.compile(r"</(?:final_?)?answer>", re.I)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]+[A-Za-z*_]", re.M)
_NEXT_PROBLEM = re.compile(r"^[ \t]*#{1,6}[ \t]*(?:Question|Problem)\b", re.M | re.I)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])[ \t\n]*")
_PHRASE = re.compile(
    r"(?:(?:final\s+|correct\s+)?answer\s*(?:\*\*|__)?\s*"
    r"(?:(?:is|are|be|equals|was)(?:\s+therefore|\s+thus|\s+then|\s+simply|\s+just)?\s*[:：]?|[:=：])"
    # the same in other languages
    r"|(?:respuesta|r[ée]ponse|risposta|resposta|antwort|antwoord|ответ(?:ом)?)(?:\s+(?:final|finale|correcta|correta))?\s*"
    r"(?:(?:es|est|è|é|ist|lautet|is|равен|будет)(?!\w)\s*:?|[:：=—–-])"
    r"|(?:答案|答え|答|정답|답)\s*(?:是|为|為|は|은|[:：=])[:：]?)"
    r"\s*(?:\*\*|__)?\s*",
    re.I,
)

MARKS = ("section", "tag", "box", "hashes", "phrase")


class Box(NamedTuple):
    """One `\\boxed{...}`: its content, stripped, and where it stands."""

    content: str
    start: int
    end: int


def extract(text: str, *, markers_only: bool = False) -> str | None:
    """The final answer of a solution, or a bare answer itself; None if there is none.

    Only the model's own last words count: after the last thought, before the first end token, any line ends
    (`turns.own_words`). Sources in this order: the `# Answer` section or `<answer>` that begins last, and in its text
    what follows; the last box; `####`; the last "the answer is ..."; the text itself if it is not a sentence; the last
    formula or number of the text. An empty box, tag or section is not an answer: nothing else is taken instead.

    Args:
        markers_only: stop before the last two sources, so that an unfinished solution has no answer.
    """
    source, answer = read(text)
    return None if markers_only and source not in MARKS else answer


def read(text: str) -> tuple[str, str | None]:
    """(source, answer): the source is one of `MARKS`, "bare" for an answer as it stands, or "text"; see `extract`."""
    text = own_words(text)
    source, answer = _marked(text)
    if source:
        return source, answer or None
    if is_bare(text):
        return "bare", text or None
    return "text", last_mathematics(text)


def boxes(text: str) -> list[Box]:
    """All outermost boxes in order; a box that is never closed is not counted."""
    found = []
    closings = _closings(text) if "box" in text else {}
    position = 0
    while (match := _BOX.search(text, position)) is not None:
        content, end = _argument(text, match.end(), closings)
        position = max(end, match.end())
        if content is not None:
            found.append(Box(_unnest(content), match.start(), end))
    return found


def box_run(text: str) -> list[str]:
    r"""The boxes at the end that only commas, "and", "or" and delimiters separate: `\boxed{1}, \boxed{2}`."""
    all_boxes = boxes(text)
    run: list[str] = []
    for index in range(len(all_boxes) - 1, -1, -1):
        run.insert(0, all_boxes[index].content)
        gap = text[all_boxes[index - 1].end : all_boxes[index].start] if index else "stop"
        gap = re.sub(r"\\(?:text|quad|qquad|\(|\)|\[|\]|,|;|!)|[${}\s.,;]|and|or", "", gap)
        gap = re.sub(r"^\\|[A-Za-z]_?\d?=$", "", gap)
        if gap:
            break
    return run if len(run) > 1 else []


def _marked(text: str) -> tuple[str, str | None]:
    """(the mark that was found or "", the answer after it)."""
    section, tag = _last(_SECTION, text), _last(_TAG, text)
    if tag is not None and (section is None or tag.start() > section.start()):
        body = _TAG_END.split(text[tag.end() :], maxsplit=1)[0].strip()
        mark, answer = _marked(body)
        return "tag", answer if mark else sentence(body)
    if section is None:
        return _inline(text)
    # A box may follow in a later part of the solution, but not in a next problem.
    rest = _NEXT_PROBLEM.split(text[section.end() :], maxsplit=1)[0]
    mark, answer = _boxed(rest)
    if mark:
        return mark, answer
    body = _HEADING.split(rest, maxsplit=1)[0].strip()
    paragraph = re.split(r"\n[ \t]*\n", body, maxsplit=1)[0].strip()
    mark, answer = _inline(paragraph)
    if mark:
        return "section", answer
    return "section", paragraph if is_bare(paragraph) else sentence(body)


def _inline(text: str) -> tuple[str, str | None]:
    mark, answer = _boxed(text)
    if mark:
        return mark, answer
    hashes = _last(_HASHES, text)
    if hashes is not None:
        return "hashes", hashes.group(1).strip()
    phrase = _last(_PHRASE, text)
    return ("", None) if phrase is None else ("phrase", sentence(text[phrase.end() :]))


def _boxed(text: str) -> tuple[str, str | None]:
    found = boxes(text)
    if found:
        return "box", found[-1].content
    # A box that was never closed: the text was cut off inside the answer.
    return "box" if _BOX.search(text) else "", None


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    last = None
    for last in pattern.finditer(text):  # noqa: B007  the loop variable is the result
        pass
    return last


_BRACE = re.compile(r"\\.|[{}]", re.S)
_BOXED_TOKEN = re.compile(r"-?\d+(?:\.\d+)?|\\?[A-Za-z]+|\S")


def _closings(text: str) -> dict[int, int]:
    """Each opening brace with its closing one, in one pass: texts may hold thousands of open boxes."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    for brace in _BRACE.finditer(text):
        if brace.group() == "{":
            stack.append(brace.start())
        elif brace.group() == "}" and stack:
            pairs[stack.pop()] = brace.start()
    return pairs


def _argument(text: str, position: int, closings: dict[int, int]) -> tuple[str | None, int]:
    r"""Content after a box command: a balanced group, or one token as in `\boxed 7`."""
    if text[position : position + 1] != "{":
        token = _BOXED_TOKEN.match(text, position)
        return (token.group(), token.end()) if token else (None, position)
    end = closings.get(position)
    return (None, position) if end is None else (text[position + 1 : end], end + 1)


def _unnest(content: str) -> str:
    inner = boxes(content) if "box" in content else []
    whole = len(inner) == 1 and not (content[: inner[0].start] + content[inner[0].end :]).strip(" $\n")
    return inner[0].content if whole else content.strip()
