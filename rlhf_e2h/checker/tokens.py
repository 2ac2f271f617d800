"""The whitelisting tokeniser. Whatever it does not know is refused before any parser or evaluator sees it."""

from __future__ import annotations

import re

from rlhf_e2h.checker import vocabulary as words
from rlhf_e2h.checker.nodes import ParseError, RefusedError
from rlhf_e2h.checker.numerals import BRACKETS, Token, endless, join_numbers, number, repeating, split_digits

MAX_CHARACTERS = 2000
MAX_TOKENS = 1000
MAX_DEPTH = 40


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
            depth += BRACKETS.get(token.value, 0)
            deepest = max(deepest, depth)
    if deepest > MAX_DEPTH:
        raise RefusedError(f"brackets nested {deepest} deep, at most {MAX_DEPTH}")
    return join_numbers(split_digits(tokens), merge_thousands)


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
        return [number(source, gap)]
    if kind == "env":
        return [Token("cmd", re.sub(r"[\\}\s*]", "", source).replace("{", ":"), gap)]
    if kind == "repeat":
        return [Token("num", (repeating(source), None, source), gap)]
    if kind == "endless":
        return [Token("num", (endless(source), None, source), gap)]
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
