"""Running text: is it an answer as it stands, and which formula or number of it comes last?"""

from __future__ import annotations

import re

from rlhf_e2h.checker.vocabulary import MEASURES

MAX_PASSAGE = 5_000  # characters in which an answer without a mark is looked for

_HOPE = re.compile(r"\s*\.?\s*I hope (?:it|this) is correct.*", re.S | re.I)
_DRAWING = re.compile(r"\[asy\].*?(?:\[/asy\]|\Z)", re.S)
_SENTENCE_END = re.compile(r"(?<=[^\s.])\.(?=\s+[A-Z\[\"']|\s*$)|。|\n\s*\n|\n(?=[A-Z*#\[])")
_DELIMITED = re.compile(
    r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]"
    r"|(\\begin\{(\w+\*?)\}.+?\\end\{\6\})",
    re.S,
)
_WORDS = re.compile(r"\\(?:begin|end|text\w*|mbox|mathrm|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_NUMBER = re.compile(
    r"(?<![A-Za-z\d_.])[-+−]?(?:[$€£¥]\s?)?(?:\d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+|\d+)?(?:(?<=\d)\.\d+|(?<![\d.])\.\d+)?"
    r"(?:(?<=\d)/\d+)?(?<=\d)(?:\s?\\?%)?"
)
_AFTER = re.compile(r"\s*(\\?%|¢|[A-Za-z]{2,})(?![\w^²³])")
# An expression in running text without delimiters: y = 2x + 1, -4k^5, 5:6, (3, 4), \sqrt{2}, {2, 5}.
_LETTER = r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])"
_COMMAND = r"\\[A-Za-z]++(?:\s*\{(?:[^{}]|\{[^{}]*\})*+\})*"
_GROUP = rf"\\?[(\[{{](?>[^()\[\]{{}}A-Za-z\n]|{_LETTER}|{_COMMAND})++\\?[)\]}}]"
_ATOM = rf"(?>\d+(?:\.\d+)?|{_LETTER}|{_COMMAND}|{_GROUP})"
_SIDE = rf"[-+−]?{_ATOM}++(?:\s?(?:[-+*/=^_:<>−]|<=|>=)\s?[-+−]?{_ATOM}++)*+"
_PLAIN = re.compile(rf"(?<![\w.\\]){_SIDE}(?![A-Za-z])")
_ANNOUNCED = re.compile(r"(?:\b(?:are|is|either|both|points?|solutions?|roots?|values?|pairs?)|:)\s*\Z")
_ALIGNMENT = re.compile(r"\\(?:begin|end)\{(?:align|gather|equation|eqnarray|split)\w*\*?\}")
_EQUALITY = re.compile(r"(?<![<>!:=])=(?!=)|\\(?:approx|equiv)(?![A-Za-z])")
_JOINT = re.compile(r"\s*,?\s*(?:and|or)?\s*")
# Words that say "this is a sentence", so that the answer is inside the text and is not the text.
_PROSE = re.compile(
    r"(?<![\\A-Za-z])(?:the|is|are|was|were|so|therefore|thus|hence|which|we|find|that|it|it's|because|since|this|"
    r"there|here|has|have|get|gives?|equals|let|if|then|must|need|can|should|would|will|step|to|of|our|its?)"
    r"(?![A-Za-z])",
    re.I,
)
# Words before the first formula, or two of them before the first number: "Matrix: $..$", "Jane started 3 hours ago",
# "El resultado es 5", "共有12".
_LEAD_IN = re.compile(
    r"\s*(?:[^\W\d_]{2,}(?:['’]s)?[\s:,]+)+(?:\$|\\\(|\\\[)|\s*(?:[^\W\d_]{2,}|[^\W\d_a-z])[\s:,]+(?:[^\W\d_]+[\s:,]+)+[-$]?\d"
    r"|(?s:.)*[^\W\d_]{2,}:\s*[-−]?\d|\s*[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af，、：,]{2,}\s*[-$\\]?\d"
)


def is_bare(text: str) -> bool:
    """True if the text is an answer as it stands and not a sentence around one."""
    if "\n\n" in text or len(text) > 4000:
        return len(text.split()) < 4
    outside = _WORDS.sub(" ", re.sub(r"(?<=\d) to (?=\d)", ":", hide_formulas(text, " ")))
    if not _PROSE.search(outside):
        return not _LEAD_IN.match(text)
    # Words without any number or formula are an answer in words.
    return not re.search(r"[\d$\\=<>]", text) and len(text.split()) <= 8


def sentence(rest: str) -> str | None:
    """The answer that begins a text: its first sentence, or the last formula of that if it is a whole sentence."""
    rest = _HOPE.sub("", rest[:MAX_PASSAGE]).strip()
    stop = _SENTENCE_END.search(hide_formulas(rest))
    first = (rest[: stop.start()] if stop else rest).strip().strip("*_").strip('"“”').rstrip(".").strip()
    if not first or is_bare(first):
        return first or None
    return last_mathematics(first) or first


def last_mathematics(text: str) -> str | None:
    """The last formula or, if it stands later, the last plain expression of running text, with its unit.

    Expressions of one shape that "and", "or" and commas join are one answer: `the points $(1,2)$ and $(3,4)$`.
    """
    text = _DRAWING.sub("", _HOPE.sub("", text[-MAX_PASSAGE:]))
    found = sorted(_expressions(text))
    if not found:
        return None
    end = found[-1][1]
    after = _AFTER.match(text, end)
    unit = after is not None and (not after[1].isalpha() or after[1].lower() in MEASURES)
    return text[_run_start(found, text) : end].strip() + (after.group() if after and unit else "")


def _expressions(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of all formulas, and of plain expressions that hold a number."""
    found = [(match.start(), match.end(), next(filter(None, match.groups()))) for match in formulas(text)]
    hidden = hide_formulas(text)
    plain = [match.span() for match in _PLAIN.finditer(hidden)]
    for match in _NUMBER.finditer(hidden):
        start, end = match.span()
        if match.group().strip():
            found.append(next(((a, b, text[a:b]) for a, b in plain if a <= start and end <= b), (start, end, match[0])))
    return list(dict.fromkeys(found))


def _run_start(found: list[tuple[int, int, str]], text: str) -> int:
    """Where the expressions begin that are joined to the last one and look like it."""
    first, either = len(found) - 1, False
    shape = _shape(found[first][2])
    names = [found[first][2].strip()[:1]]
    while first > 0 and shape and _shape(found[first - 1][2]) == shape:
        gap = text[found[first - 1][1] : found[first][0]]
        if not _JOINT.fullmatch(gap):
            break
        either |= "or" in gap
        first -= 1
        names.append(found[first][2].strip()[:1])
    assignments = shape == "=" and len(set(names)) == len(names)
    announced = either or assignments or _ANNOUNCED.search(text[: found[first][0]])
    return found[first if announced else -1][0]


def _shape(inside: str) -> str:
    """`(`, `=` or `1` for a tuple, an assignment or a number; empty for anything else."""
    inside = inside.strip().removeprefix(r"\left")
    if inside[:1] == "(" and "," in inside:
        return "("
    if re.match(r"\w\s*=", inside):
        return "="
    return "1" if re.fullmatch(r"(?:[-−\d./{}+]|\\[dt]?frac|\\sqrt|\\pi|\\pm)+", inside) else ""


def last_side(answer: str) -> str | None:
    r"""What the last sign of equality of a formula is followed by: 45 of `$1 + \cdots + 9 = 45.$`."""
    sides = _EQUALITY.split(_ALIGNMENT.sub("", answer).strip("$ \n"))
    return sides[-1].removesuffix(r"\]").removesuffix(r"\)").rstrip(" .,&") if len(sides) > 1 else None


def formulas(text: str) -> list[re.Match[str]]:
    r"""`$..$`, `$$..$$`, `\(..\)`, `\[..\]` in order; dollar signs of money ("5$ and then 7$") delimit nothing."""
    found = []
    position = 0
    while (match := _DELIMITED.search(text, position)) is not None:
        if match[2] is not None and _is_money(match, text):
            position = match.start() + 1
            continue
        found.append(match)
        position = match.end()
    return found


def _is_money(match: re.Match[str], text: str) -> bool:
    inside, after_digit = match[2], text[match.start() - 1 : match.start()].isdigit()
    if after_digit and inside[:1].isspace():
        return True
    words = re.findall(r"[^\W\d_]{3,}", _WORDS.sub(" ", inside))
    return len(words) > 1 and (after_digit or inside[:1].isdigit())


def hide_formulas(text: str, by: str = "\0") -> str:
    """The text with each formula replaced by as many characters."""
    for match in formulas(text):
        text = text[: match.start()] + by * len(match.group()) + text[match.end() :]
    return text
