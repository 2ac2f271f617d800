r"""The normalise-only grader whose verdicts the easy-to-hard paper's released code gives.

It reproduces behaviour, faults included: the MATH normalisation of both sides, else a second normalisation (units by
substring, `\text`, thousands, LaTeX to plain text, mixed numbers, lower case) and a comparison of strings. The symbolic
step of the original grader is switched off in that release, so `0.25` and `\frac14` differ, `1,2` and `2,1` too.
"""

from __future__ import annotations

import re

from rlhf_e2h.checker.latex_text import latex_to_text

_UNITS = (
    "degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week", "month", "year", "foot",
    "feet", "inch", "yard",
)  # fmt: skip

_FRACTION = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")


def same_strict(gold: str, answer: str) -> bool:
    """The released grader's verdict on two bare answers."""
    if math_form(gold) == math_form(answer):
        return True
    first, second = plain_form(gold), plain_form(answer)
    if first == second:
        return True
    # Element by element only equal fractions count, which thousands separators may have hidden: 1,000/3 and 1000/3.
    left, right = _elements(first), _elements(second)
    if not second or len(left) != len(right) or (len(left) > 1 and (first[0], first[-1]) != (second[0], second[-1])):
        return False
    return all(a == b and _FRACTION.search(a) for a, b in zip(left, right, strict=True))


def math_form(text: str) -> str:
    r"""The normalisation published with the MATH data: layout commands, `\frac12`, units after `\text{ `, 0.5."""
    text = text.strip()
    wrapped = re.match(r"\\text\{(.+?)\}$", text, re.S)
    if wrapped:
        text = wrapped.group(1).strip()
    original = text
    for old, new in (
        ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
        ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    if text.count("\\text{ ") > 1:
        return original
    text = text.partition("\\text{ ")[0].replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text[0] == ".":
        text = "0" + text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left) <= 2:
        text = right
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = _short_fractions(text)
    if text == "0.5":
        text = "\\frac{1}{2}"
    slashed = re.fullmatch(r"(-?\d+)/(-?\d+)", text)
    return f"\\frac{{{slashed[1]}}}{{{slashed[2]}}}" if slashed else text


def _short_fractions(text: str) -> str:
    r"""`\frac12` to `\frac{1}{2}`, `\frac1{72}` to `\frac{1}{72}`."""
    head, *rest = text.split("\\frac")
    out = head
    for part in rest:
        out += "\\frac"
        if part.startswith("{"):
            out += part
        elif len(part) < 2:
            return text
        elif part[1] == "{":
            out += f"{{{part[0]}}}{part[1:]}"
        else:
            out += f"{{{part[0]}}}{{{part[1]}}}{part[2:]}"
    return out


def plain_form(text: str) -> str:
    """The second normalisation: a lower-case plain string."""
    wrapped = re.search(r"^\\text\{(.+?)\}$", text)
    if wrapped:
        text = wrapped.group(1)
    for old, new in (
        ("\\%", "%"), ("\\$", "$"), ("$", ""), ("%", ""), (" or ", " , "), (" and ", " , "), ("million", "*10^6"),
        ("billion", "*10^9"), ("trillion", "*10^12"),
    ):  # fmt: skip
        text = text.replace(old, new)
    for unit in _UNITS:
        text = re.sub(rf"{unit}(es)?(s)? *(\^[0-9]+)?", "", text)
    text = re.sub(r"\^ *\\circ", "", text)
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    text = re.sub(r",\\! *", "", text)
    text = _rounded(text)
    if "\\" in text:
        text = _plain_latex(text)
    text = re.sub(r"- *", "-", text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    return _integer(text)


def _rounded(text: str) -> str:
    """A decimal without fractional part as an integer: 5.0 is 5."""
    value = _float(text)
    return text if value is None else str(round(value))


def _integer(text: str) -> str:
    """The same once more, thousands separators allowed."""
    if _float(_without_commas(text)) is None:
        return text
    value = _float(text.replace(",", ""))
    return text if value is None else str(int(value))


def _float(text: str) -> float | None:
    """A finite float that is an integer up to 1e-7."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e300 and abs(value - round(value)) <= 1e-7 else None


def _plain_latex(text: str) -> str:
    try:
        text = latex_to_text(re.sub(r"\\[td]frac", r"\\frac", text).replace("\\frac", " \\frac"))
    except ValueError:
        return text
    for old, new in (("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*")):
        text = text.replace(old, new)
    return text.strip()


def _elements(text: str) -> list[str]:
    """The parts of one bracket without inner brackets; else the text itself."""
    text = _without_commas(text)
    whole = re.fullmatch(r"[()\[\]]([^()\[\]]+)[()\[\]]", text)
    return [part.strip() for part in whole.group(1).split(",")] if whole else [text]


def _without_commas(text: str) -> str:
    shorter = re.sub(r"(\d),(\d\d\d)($|\D)", r"\1\2\3", text)
    return text if shorter == text else _without_commas(shorter)
