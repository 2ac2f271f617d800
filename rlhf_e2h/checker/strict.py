r"""The normalise-only grader whose verdicts the easy-to-hard paper's released code gives.

It reproduces behaviour, faults included: the MATH normalisation of both sides, else a second normalisation (units by
substring, `\text`, thousands, LaTeX to plain text, mixed numbers, lower case) and a comparison of strings. The symbolic
step of the original grader is switched off in that release, so `0.25` and `\frac14` differ, `1,2` and `2,1` too.
"""

from __future__ import annotations

import re

_UNITS = (
    "degree", "cm", "centimeter", "meter", "mile", "second", "minute", "hour", "day", "week", "month", "year", "foot",
    "feet", "inch", "yard",
)  # fmt: skip
_GREEK = {"pi": "pi", "infty": "inf", "cup": "U", "cdot": "*", "times": "*", "alpha": "α", "beta": "β", "theta": "θ",
          "gamma": "γ", "lambda": "λ", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "neq": "≠", "in": "∈",
          "pm": "±", "cap": "∩", "ldots": "...", "dots": "...", "cdots": "⋯", "emptyset": "∅", "quad": "  ",
          "to": "→", "angle": "∠", "phi": "ϕ", "omega": "ω", "mid": "|", "setminus": "\\"}  # fmt: skip


def same_strict(gold: str, answer: str) -> bool:
    """The released grader's verdict on two bare answers."""
    if math_form(gold) == math_form(answer):
        return True
    first, second = plain_form(gold), plain_form(answer)
    return first == second


def math_form(text: str) -> str:
    r"""The normalisation published with the MATH data: layout commands, `\frac12`, units after `\text{ `, 0.5."""
    text = text.strip()
    wrapped = re.match(r"\\text\{(.+?)\}$", text, re.S)
    if wrapped:
        text = wrapped.group(1).strip()
    for old, new in (
        ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
        ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
    ):  # fmt: skip
        text = text.replace(old, new)
    head, unit, _ = text.partition("\\text{ ")
    text = head if unit else text
    text = text.replace("\\%", "").replace("%", "").replace(" .", " 0.").replace("{.", "{0.")
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
    text = _whole(text)
    if "\\" in text:
        text = _plain_latex(text)
    text = re.sub(r"- *", "-", text)
    text = re.sub(r"([0-9]) +([0-9])", r"\1+\2", text)
    text = text.replace(" ", "").replace("{", "").replace("}", "").lower()
    digits = text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", text) else text
    return _whole(digits)


def _whole(text: str) -> str:
    """A decimal without fractional part as an integer: 5.0 is 5."""
    try:
        value = float(text)
    except ValueError:
        return text
    if value != value or abs(value) > 1e15 or abs(value - round(value)) > 1e-7:
        return text
    return str(round(value))


def _plain_latex(text: str) -> str:
    r"""LaTeX to plain text: `\frac{a}{b}` to a/b, `\sqrt{a}` to sqrt(a), Greek letters and signs."""
    text = re.sub(r"\\[td]frac", r"\\frac", text).replace("\\frac", " \\frac")
    for _ in range(20):
        shorter = re.sub(r"\\frac\s*(?:\{([^{}]*)\}|(\w))\s*(?:\{([^{}]*)\}|(\w))", _slashed, text)
        shorter = re.sub(r"\\sqrt\s*(?:\{([^{}]*)\}|(\w))", lambda m: f"sqrt({m[1] or m[2]})", shorter)
        if shorter == text:
            break
        text = shorter
    text = re.sub(r"\\(?:text\w*|mbox|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:left|right)(?![A-Za-z])", "", text)
    text = re.sub(r"\\([A-Za-z]+) ?", lambda m: _GREEK.get(m[1], m[1] if m[1] in ("sin", "cos", "tan") else ""), text)
    return re.sub(r"\\(.)", r"\1", text).strip()


def _slashed(match: re.Match[str]) -> str:
    return f"{match[1] or match[2] or ''}/{match[3] or match[4] or ''}"
