"""Tokens of numbers: decimals, repeating decimals, thousands, digits that LaTeX reads one by one."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple

from rlhf_e2h.checker.nodes import ParseError, RefusedError

MAX_DIGITS = 400  # digits of one number
BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}


class Token(NamedTuple):
    """`kind` is num, sym, const, fn, cmd, op, rel, sep, text, unit or mark; `gap` says a space stood before it."""

    kind: str
    value: Any
    gap: bool = False


def number(source: str, gap: bool) -> Token:
    mantissa = re.split("[eE]", source)[0]
    if len(mantissa) > MAX_DIGITS:
        raise RefusedError(f"a number of {len(mantissa)} digits, at most {MAX_DIGITS}")
    exponent = re.split("[eE]", source)[1:]
    if exponent and abs(int(exponent[0])) > MAX_DIGITS:
        raise RefusedError(f"exponent {exponent[0]}, at most {MAX_DIGITS}")
    digits = len(mantissa.replace(".", "").lstrip("0")) if "." in mantissa else None
    return Token("num", (Fraction(source.rstrip(".")), digits, source), gap)


def repeating(source: str) -> Fraction:
    whole, rest = re.split(r"\.", source, maxsplit=1)
    start, block = re.split(r"\\(?:overline|bar|dot)", rest)
    return _periodic(whole, start.strip(), re.sub(r"\D", "", block))


def _periodic(whole: str, start: str, block: str) -> Fraction:
    if len(whole + start + block) > MAX_DIGITS:
        raise RefusedError("a repeating decimal that is too long")
    scale = 10 ** len(start)
    return Fraction(int(whole + start or "0"), scale) + Fraction(int(block), scale * (10 ** len(block) - 1))


def endless(source: str) -> Fraction:
    r"""`0.1666\ldots`: the shortest block that stands at least twice at the end (three times for a single digit)."""
    match = re.match(r"(\d*)\.(\d*?)(?:(\d)\3{2,}|(\d{2,})\4+)\s*(?:\\|\.)", source)
    if match is None:
        raise ParseError(f"{source} does not show which digits repeat")
    return _periodic(match.group(1), match.group(2), match.group(3) or match.group(4))


def split_digits(tokens: list[Token]) -> list[Token]:
    """`2^33^2` and `\\log_35` as LaTeX reads them: without braces one digit is raised or lowered, and the rest is the
    next power's base or the argument."""
    out: list[Token] = []
    for k, token in enumerate(tokens):
        digits = token.value[2] if token.kind == "num" else ""
        sign, after = tokens[k - 1].value if k else "", tokens[k + 1].value if k + 1 < len(tokens) else ""
        glued = sign == after == "^" or (sign == "_" and after in ("", "+", "-") and tokens[k - 2].kind == "fn")
        if glued and len(digits) > 1 and digits.isdigit():
            out += [number(digits[0], token.gap), number(digits[1:], True)]
        else:
            out.append(token)
    return out


def join_numbers(tokens: list[Token], merge: bool) -> list[Token]:
    """Thousands: `1,000` and `1 000`; inside brackets a comma separates unless zeros or other spacing say otherwise."""
    spaced_commas = any(tokens[k].kind == "sep" and tokens[k + 1].gap for k in range(len(tokens) - 1))
    joined: list[Token] = []
    depth = 0
    for token in tokens:
        if token.kind == "op":
            depth += BRACKETS.get(token.value, 0) + {r"\{": 1, r"\}": -1}.get(token.value, 0)
        joined.append(token)
        last = [t.kind for t in joined[-3:]]
        if last == ["num", "sep", "num"] and joined[-2].value == "," and not joined[-2].gap and not token.gap:
            zeros = token.value[2].startswith("0") and depth <= 1
            if _thousands(joined[-3], token) and (zeros or spaced_commas or (depth == 0 and merge)):
                joined[-3:] = [_concatenated(joined[-3], token)]
        elif last[-2:] == ["num", "num"] and token.gap and _thousands(joined[-2], token):
            joined[-2:] = [_concatenated(joined[-2], token)]
    return joined


def _thousands(left: Token, right: Token) -> bool:
    head, tail = left.value[2], right.value[2]
    plain = bool(re.fullmatch(r"[1-9]\d{0,2}|[1-9]\d{0,2}(?:_\d{3})+", head))
    return plain and bool(re.fullmatch(r"\d{3}(?:\.\d+)?", tail))


def _concatenated(left: Token, right: Token) -> Token:
    source = f"{left.value[2]}_{right.value[2]}"
    plain = source.replace("_", "")
    digits = len(plain.replace(".", "")) if "." in plain else None
    return Token("num", (Fraction(plain), digits, source), left.gap)
