r"""Find the answer in a solution text: last `\boxed{...}`, `# Answer` section, `####`, "the answer is ..."."""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_TEXT = 100_000  # characters; the end of a longer text is searched, where answers stand

_CHAT_TOKEN = re.compile(r"<\|(?:im_start|im_end|endoftext|eot_id|end_of_text|end|eos)\|>|</s>")
_SECTION = re.compile(r"^[ \t]*#{1,3}[ \t]*(?:Final[ \t]+)?Answer[ \t]*:?[ \t]*$", re.M | re.I)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)(?![A-Za-z])[ \t\n]*")
_PHRASE = re.compile(
    r"(?:final\s+answer|answer)\s*(?:\*\*|__)?\s*"
    r"(?:(?:is|are|be|equals|was)(?:\s+therefore|\s+thus|\s+then|\s+simply|\s+just)?\s*:?|[:=])\s*(?:\*\*|__)?\s*",
    re.I,
)
_HOPE = re.compile(r"\s*\.?\s*I hope (?:it|this) is correct.*", re.S | re.I)
_SENTENCE_END = re.compile(r"(?<=[^\s.])\.(?=\s+[A-Z\[\"']|\s*$)|\n\s*\n|\n(?=[A-Z*#\[])")
_MATH_SPAN = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+|\d+)?(?:(?<=\d)\.\d+|(?<![\d.])\.\d+)?(?:(?<=\d)/\d+)?"
    r"(?<=\d)(?:\s?\\?%)?"
)
# Words that say "this is a sentence", so that the answer is inside the text and is not the text.
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?:the|is|are|was|were|so|therefore|thus|hence|which|we|find|that|it|it's|because|since|this|"
    r"there|here|has|have|get|gives?|equals|let|if|then|must|need|can|should|would|will|step|to|of|our|its?)"
    r"(?![A-Za-z])",
    re.I,
)
# Words before the first formula, or two of them before the first number: "Matrix: $..$", "Jane started 3 hours ago".
_LEAD_IN = re.compile(r"\s*(?:[A-Za-z]{2,}[\s:,]+)+\$|\s*(?:[A-Za-z]{3,}[\s:,]+){2,}[-$]?\d")


class Box(NamedTuple):
    """One `\\boxed{...}`: its content, stripped, and where it stands."""

    content: str
    start: int
    end: int


def extract(text: str, markers_only: bool = False) -> str | None:
    """The final answer of a solution, or a bare answer itself; None if there is none.

    Sources in this order: the last `# Answer` section, the last box (also inside that section), `####`, the last
    "the answer is ...", the text itself if it is no sentence, the last formula or number of the text. An empty box
    or section is no answer: nothing else of the text is taken instead.

    Args:
        markers_only: stop before the last two sources, so that an unfinished solution has no answer.
    """
    text = clean(text)
    marked, answer = _marked(text)
    if marked or markers_only:
        return answer or None
    if not text:
        return None
    return text if is_bare(text) else _last_mathematics(text)


def clean(text: str) -> str:
    """Cut a chat template's leftovers, and the beginning of an overlong text."""
    return _CHAT_TOKEN.split(text[-MAX_TEXT:], maxsplit=1)[0].strip()


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


def is_bare(text: str) -> bool:
    """True if the text is an answer as it stands and no sentence around one."""
    if "\n\n" in text or len(text) > 4000:
        return len(text.split()) < 4
    outside = _MATH_SPAN.sub(" ", text)
    outside = re.sub(r"\\(?:text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}", " ", outside)
    if not _PROSE.search(outside):
        return not _LEAD_IN.match(text)
    # Words without any number or formula are an answer in words.
    return not re.search(r"[\d$\\=<>]", text) and len(text.split()) <= 8


def _marked(text: str) -> tuple[bool, str | None]:
    """(a marker was found, the answer behind it)."""
    section = _last(_SECTION, text)
    if section is not None:
        body = text[section.end() :].strip()
        marked, answer = _marked_inline(body)
        return True, answer if marked else body
    return _marked_inline(text)


def _marked_inline(text: str) -> tuple[bool, str | None]:
    found = boxes(text)
    if found:
        return True, found[-1].content
    if _BOX.search(text):
        return True, None  # a box that was never closed: the text was cut off inside the answer
    hashes = _last(_HASHES, text)
    if hashes is not None:
        return True, hashes.group(1).strip()
    phrase = _last(_PHRASE, text)
    if phrase is not None:
        return True, _after_phrase(text[phrase.end() :])
    return False, None


def _after_phrase(rest: str) -> str | None:
    rest = _HOPE.sub("", rest).strip()
    stop = _SENTENCE_END.search(_hide_spans(rest))
    sentence = (rest[: stop.start()] if stop else rest).strip().strip("*_").strip('"“”').rstrip(".").strip()
    if not sentence or is_bare(sentence):
        return sentence or None
    return _last_mathematics(sentence) or sentence


def _last_mathematics(text: str) -> str | None:
    """The last formula or, if it stands later, the last number of running text."""
    text = _HOPE.sub("", text)
    spans = list(_MATH_SPAN.finditer(text))
    numbers = [m for m in _NUMBER.finditer(_hide_spans(text)) if m.group().strip()]
    if spans and (not numbers or spans[-1].end() > numbers[-1].end()):
        tail = re.match(r"\s*(?:\\?%|percent)", text[spans[-1].end() :])
        return spans[-1].group() + (tail.group() if tail else "")
    return numbers[-1].group().strip() if numbers else None


def _hide_spans(text: str) -> str:
    return _MATH_SPAN.sub(lambda match: "\0" * len(match.group()), text)


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
