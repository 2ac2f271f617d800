"""The whitelisting tokeniser. Whatever it does not know is refused before any parser or evaluator sees it."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple

from rlhf_e2h.checker import vocabulary as words
from rlhf_e2h.checker.nodes import ParseError, RefusedError

MAX_CHARACTERS = 2000
MAX_TOKENS = 1000
MAX_DEPTH = 40
MAX_DIGITS = 400  # digits of one number


class Token(NamedTuple):
    """`kind` is num, sym, const, fn, cmd, op, rel, sep, text, unit or mark; `gap` says a space stood before it."""

    kind: str
    value: Any
    gap: bool = False


_SCANNER = re.compile(
    r"""(?P<space>\s+)
  | (?P<repeat>\d*\.\d*\s*\\(?:overline|bar|dot)\s*(?:\{\s*\d+\s*\}|\d))
  | (?P<endless>\d*\.\d+\s*(?:\\[lc]?dots(?![A-Za-z])|\.\.\.))
  | (?P<num>\d+(?:\.\d+)?(?:[eE][-+]\d{1,4}|[eE]\d{1,3}(?![\dA-Za-z.]))?|\.\d+|\d+\.(?![\d.]))
  | (?P<env>\\(?:begin|end)\s*\{\s*[A-Za-z]+\*?\s*\})
  | (?P<command>\\[A-Za-z]+)
  | (?P<escape>\\[{}%$|&#_^'"])
  | (?P<foreign>[A-Za-z]*(?:(?![A-Za-z])[^\W\d_]|[\u0300-\u036f\u0900-\u0e7f])[^\W\d_\u0300-\u036f\u0900-\u0e7f]*)
  | (?P<word>[A-Za-z]+)
  | (?P<rel><=|>=|=<|==|:=|!=|=|<|>|~)
  | (?P<dots>\.\.\.)
  | (?P<op>\*\*|[-+*/^_(){}\[\]|!'&:%])
  | (?P<sep>[,;])
  | (?P<dot>[.?])""",
    re.X,
)
_FUNCTION = "arc(?:sin|cos|tan)|(?:sin|cos|tan)h|sin|cos|tan|cot|sec|csc|log|ln|sqrt|pi"
_RUN_TOGETHER = re.compile(rf"[A-Za-z]?(?:(?:{_FUNCTION})[A-Za-z]?)+\Z")  # sinx, xlnx, secxtanx
_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_GROUP = re.compile(r"\s*\{")


def tokenise(text: str, merge_thousands: bool = True) -> list[Token]:
    """Tokens of a normalised text.

    Raises:
        RefusedError: too long, too deep, or a character or number that no answer needs.
        ParseError: a command outside the vocabulary.
    """
    if len(text) > MAX_CHARACTERS:
        raise RefusedError(f"{len(text)} characters, at most {MAX_CHARACTERS}")
    if "__" in text:
        raise RefusedError("a double underscore is in no answer that can be compared")
    tokens = _scan(text)
    if len(tokens) > MAX_TOKENS:
        raise RefusedError(f"{len(tokens)} tokens, at most {MAX_TOKENS}")
    depth = deepest = 0
    for token in tokens:
        if token.kind == "op":
            depth += _BRACKETS.get(token.value, 0)
            deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise RefusedError(f"brackets nested {deepest} deep, at most {MAX_DEPTH}")
    return _join_numbers(_split_digits(tokens), merge_thousands)


def _scan(text: str, in_text: bool = False, before: list[Token] | None = None) -> list[Token]:
    tokens: list[Token] = []
    position, gap = 0, False
    while position < len(text):
        match = _SCANNER.match(text, position)
        if match is None:
            raise RefusedError(f"character {text[position]!r} is in no answer that can be compared")
        kind, source = str(match.lastgroup), match.group()
        position = match.end()
        if kind == "space":
            gap = True
            continue
        if kind == "command" and source[1:] in words.TEXT_COMMANDS:
            content, position = _braced(text, position)
            if content is None:
                raise ParseError(f"{source} without an argument")
            tokens += _text_argument(source, content, tokens)
        else:
            if kind == "command" and (cut := _glued(source)):
                # \\sinx and \\pir: the letter is the argument or factor that lost its space
                source, position = source[:cut], position - len(source) + cut
            tokens += _token(kind, source, gap, in_text, tokens or before or [])
        gap = kind == "dot"
    return tokens


def _glued(source: str) -> int:
    """Where one letter follows a known command's name, in a name that is itself unknown; else 0."""
    name = source[1:]
    if len(name) < 3 or name in words.FUNCTION_NAMES or name in words.GREEK or source in words.RELATIONS:
        return 0
    head = name[:-1]
    known = head in words.FUNCTION_NAMES or head in words.GREEK or head in ("pi", "cdot", "times")
    return len(source) - 1 if known and name not in words.CONSTANTS else 0


def _braced(text: str, position: int) -> tuple[str | None, int]:
    opening = _GROUP.match(text, position)
    if opening is None:
        return None, position
    depth, start = 1, opening.end()
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place], place + 1
    return None, position


def _text_argument(command: str, content: str, before: list[Token]) -> list[Token]:
    r"""`\text{ and }` separates, `\text{ cm}` is a unit, `\mathrm{e}` is a letter, `\operatorname{lcm}` a function."""
    bare = content.strip()
    if command in (r"\mathrm", r"\operatorname", r"\rm") and (len(bare) == 1 or bare in words.FUNCTION_NAMES):
        return _scan(bare)
    inner = _scan(content, in_text=True, before=before)
    if not inner:
        return []
    # A text argument is set off from what stands before it, whether or not it begins with a space.
    return [inner[0]._replace(gap=True), *inner[1:]] if inner[0].kind in ("text", "unit") else inner


def _token(kind: str, source: str, gap: bool, in_text: bool, before: list[Token]) -> list[Token]:
    if kind == "num":
        return [_number(source, gap)]
    if kind == "env":
        return [Token("cmd", re.sub(r"[\\}\s*]", "", source).replace("{", ":"), gap)]
    if kind == "repeat":
        return [Token("num", (_repeating(source), None, source), gap)]
    if kind == "endless":
        return [Token("num", (_endless(source), None, source), gap)]
    if kind == "rel":
        return [Token("rel", words.RELATIONS[source], gap)]
    if kind == "foreign":
        return [Token("unit" if before else "text", source, True)]
    if kind == "word":
        return _word(source, gap, in_text, before)
    if kind == "command":
        return [_command(source, gap)]
    if kind == "escape":
        return [_escape(source, gap)] if source not in (r"\$", r"\&", r"\#", r"\^", "\\'", '\\"') else []
    if kind == "dots":
        raise ParseError("an unfinished list")
    if kind == "dot":
        return []
    if kind == "op" and source == "%":
        return [Token("mark", "percent", gap)]
    return [Token(kind, "^" if source == "**" else source, gap)]


def _number(source: str, gap: bool) -> Token:
    mantissa = re.split("[eE]", source)[0]
    if len(mantissa) > MAX_DIGITS:
        raise RefusedError(f"a number of {len(mantissa)} digits, at most {MAX_DIGITS}")
    exponent = re.split("[eE]", source)[1:]
    if exponent and abs(int(exponent[0])) > MAX_DIGITS:
        raise RefusedError(f"exponent {exponent[0]}, at most {MAX_DIGITS}")
    digits = len(mantissa.replace(".", "").lstrip("0")) if "." in mantissa else None
    return Token("num", (Fraction(source.rstrip(".")), digits, source), gap)


def _repeating(source: str) -> Fraction:
    whole, rest = re.split(r"\.", source, maxsplit=1)
    start, block = re.split(r"\\(?:overline|bar|dot)", rest)
    return _periodic(whole, start.strip(), re.sub(r"\D", "", block))


def _periodic(whole: str, start: str, block: str) -> Fraction:
    if len(whole + start + block) > MAX_DIGITS:
        raise RefusedError("a repeating decimal that is too long")
    scale = 10 ** len(start)
    return Fraction(int(whole + start or "0"), scale) + Fraction(int(block), scale * (10 ** len(block) - 1))


def _endless(source: str) -> Fraction:
    r"""`0.1666\ldots`: the shortest block that stands at least twice at the end (three times for a single digit)."""
    match = re.match(r"(\d*)\.(\d*?)(?:(\d)\3{2,}|(\d{2,})\4+)\s*(?:\\|\.)", source)
    if match is None:
        raise ParseError(f"{source} does not show which digits repeat")
    return _periodic(match.group(1), match.group(2), match.group(3) or match.group(4))


def _command(source: str, gap: bool) -> Token:
    name = source[1:]
    if source in words.RELATIONS:
        return Token("rel", words.RELATIONS[source], gap)
    if name in words.CONSTANTS:
        return Token("const", words.CONSTANTS[name], gap)
    if name in words.GREEK:
        return Token("sym", name, gap)
    if name in words.FUNCTION_NAMES:
        return Token("fn", words.FUNCTION_NAMES[name], gap)
    simple = {
        "cdot": "*", "times": "*", "ast": "*", "div": "/", "colon": ":", "lbrace": r"\{", "rbrace": r"\}",
        "lvert": "|", "rvert": "|", "vert": "|", "mid": "mid", "lbrack": "[", "rbrack": "]", "langle": "(",
        "rangle": ")", "lparen": "(", "rparen": ")", "prime": "'", "backslash": "minus", "setminus": "minus",
        "cup": "cup", "bigcup": "cup", "cap": "cap", "bigcap": "cap", "pm": "pm", "mp": "mp", "cr": "cr",
    }  # fmt: skip
    if name in simple:
        return Token("op", simple[name], gap)
    if name == "Pr":
        return Token("sym", name, gap)
    if name in ("bmod", "mod"):
        return Token("op", "mod", gap)
    if name in ("land", "wedge"):
        return Token("sep", "and", gap)
    if name in ("lor", "vee"):
        return Token("sep", "or", gap)
    if name in ("circ", "degree"):
        return Token("mark", "circ", gap)
    if name in ("emptyset", "varnothing"):
        return Token("cmd", "emptyset", gap)
    known = words.ACCENTS | words.STYLE_COMMANDS | words.NAME_PREFIXES
    if name in known or name in (
        "frac", "sqrt", "binom", "dbinom", "tbinom", "choose", "mathbb", "Bbb", "lfloor", "rfloor",
        "lceil", "rceil", "over", "boxed", "fbox", "not", "pmod", "sum", "prod", "int", "lim",
    ):  # fmt: skip
        return Token("cmd", name, gap)
    raise ParseError(f"command {source} is not in the vocabulary")


def _escape(source: str, gap: bool) -> Token:
    if source == r"\%":
        return Token("mark", "percent", gap)
    if source == r"\|":
        return Token("op", "|", gap)
    if source == r"\_":
        return Token("op", "_", gap)
    return Token("op", source, gap)


def _word(source: str, gap: bool, in_text: bool, before: list[Token]) -> list[Token]:
    lower = source.lower()
    if lower in words.SEPARATOR_WORDS:
        return [Token("sep", words.SEPARATOR_WORDS[lower], gap)]
    if lower == "to" and before and before[-1].kind == "num":
        return [Token("op", ":", gap)]
    if in_text:
        return [Token("unit" if lower in words.UNITS else "text", source, gap)]
    if source in words.CONSTANTS and source != "Pi":
        return [Token("const", words.CONSTANTS[source], gap)]
    if source in words.FUNCTION_NAMES:
        return [Token("fn", words.FUNCTION_NAMES[source], gap)]
    if source == "sqrt":
        return [Token("cmd", "sqrt", gap)]
    if lower in words.UNITS and ((gap and before) or len(source) > 3 or (not before and len(source) == 3)):
        return [Token("unit", source, gap)]
    if lower in words.GREEK and len(source) > 2:
        return [Token("sym", source, gap)]
    if _RUN_TOGETHER.match(source) and lower not in words.LIKE_FUNCTIONS:
        parts = re.findall(rf"{_FUNCTION}|[A-Za-z]", source)
        return [token for k, part in enumerate(parts) for token in _word(part, gap and k == 0, False, before)]
    titled = len(source) > 2 and source[1:].islower() and source[0].isupper()
    if (len(source) > 3 and not source.isupper()) or (lower in words.SHORT_WORDS and len(source) > 1) or titled:
        return [Token("text", source, gap)]
    if len(source) > 6:
        return [Token("text", source, gap)]
    letters = [Token(*_letter(letter), False) for letter in source]
    return [letters[0]._replace(gap=gap), *letters[1:]]


def _letter(letter: str) -> tuple[str, str]:
    return ("const", letter) if letter in "ei" else ("sym", letter)


def _split_digits(tokens: list[Token]) -> list[Token]:
    """`2^33^2` and `\\log_35` as LaTeX reads them: without braces one digit is raised or lowered, and the rest is the
    next power's base or the argument."""
    out: list[Token] = []
    for k, token in enumerate(tokens):
        digits = token.value[2] if token.kind == "num" else ""
        sign, after = tokens[k - 1].value if k else "", tokens[k + 1].value if k + 1 < len(tokens) else ""
        glued = sign == after == "^" or (sign == "_" and after in ("", "+", "-") and tokens[k - 2].kind == "fn")
        if glued and len(digits) > 1 and digits.isdigit():
            out += [_number(digits[0], token.gap), _number(digits[1:], True)]
        else:
            out.append(token)
    return out


def _join_numbers(tokens: list[Token], merge: bool) -> list[Token]:
    """Thousands: `1,000` and `1 000`; inside brackets a comma separates unless zeros or other spacing say otherwise."""
    spaced_commas = any(tokens[k].kind == "sep" and tokens[k + 1].gap for k in range(len(tokens) - 1))
    joined: list[Token] = []
    depth = 0
    for token in tokens:
        if token.kind == "op":
            depth += _BRACKETS.get(token.value, 0) + {r"\{": 1, r"\}": -1}.get(token.value, 0)
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
