"""Tokens to a tree: answers, lists and relations here, expressions in `expressions.py`."""

from __future__ import annotations

import re
from functools import lru_cache

from rlhf_e2h.checker import vocabulary as words
from rlhf_e2h.checker.expressions import Expressions
from rlhf_e2h.checker.names import is_name
from rlhf_e2h.checker.nodes import INFINITY, ZERO, Node, ParseError, RefusedError, num
from rlhf_e2h.checker.normalise import normalise
from rlhf_e2h.checker.tokens import MAX_CHARACTERS, Token, tokenise

_BASE = re.compile(
    r"\(?\s*([0-9A-F]+(?:\.[0-9A-F]+)?)\s*\)?\s*_\s*(?:\{\s*)?(?:\\(?:text|mathrm)\{\s*)?(\d{1,2}|[a-z]+)[\s}]*\Z"
)
_HALF_OF_DAY = re.compile(r"(?<=\d)\s*(?:\\text\{|\\mathrm\{|\{)?\s*([aApP])\.?\s?[mM]\.?\s*\}?\Z")
_DECIMAL_COMMA = re.compile(r"-?\d{4,},\d{1,2}\Z")


@lru_cache(maxsize=16_384)
def parse(text: str, merge_thousands: bool = True) -> Node | Exception:
    """The tree of an answer, or the ParseError or RefusedError that it ended in (returned, so that it is cached)."""
    try:
        if len(text) > MAX_CHARACTERS:
            raise RefusedError(f"{len(text)} characters, at most {MAX_CHARACTERS}")
        return _parse(normalise(text), merge_thousands)
    except (ParseError, RefusedError) as error:
        return error.with_traceback(None)
    except RecursionError:
        return RefusedError("nested too deep")


def _parse(text: str, merge_thousands: bool) -> Node:
    based = _BASE.match(text)
    if based:
        base = based.group(2)
        if base.isdigit() or base in words.BASE_WORDS:
            return Node("base", (based.group(1), int(base) if base.isdigit() else words.BASE_WORDS[base]))
    if _DECIMAL_COMMA.match(text):
        text = text.replace(",", ".")
    half = _HALF_OF_DAY.search(re.sub(r"\A\\text\{([^{}]*)\}\Z", r"\1", text))
    if half:
        clock = _parse(half.string[: half.start()], merge_thousands)
        return Node(
            "ratio", (*(clock.args if clock.op == "ratio" else (clock, ZERO)), Node("text", (half[1].lower(),)))
        )
    tokens = tokenise(text, merge_thousands)
    if not tokens:
        raise ParseError("nothing to read")
    return Parser(tokens).answer()


class Parser(Expressions):
    """`answer` reads the whole token list; every method takes a half-open range of token positions."""

    def answer(self) -> Node:
        return self.items(0, len(self.tokens))

    def items(self, low: int, high: int) -> Node:
        """A list separated by commas, semicolons, "and", "or"; a single item stands for itself."""
        cuts = self.cuts(low, high, "sep")
        kinds = {self.tokens[cut].value for cut in cuts}
        if {",", ";"} <= kinds:
            cuts = [cut for cut in cuts if self.tokens[cut].value == ";"]
            return Node("list", (";", *(self.items(a, b) for a, b in _ranges(low, high, cuts) if a < b)))
        parts = [self.item(a, b) for a, b in _ranges(low, high, cuts) if a < b]
        if not parts:
            raise ParseError("an empty list")
        if len(parts) == 1:
            return parts[0]
        separator = next(kind for kind in ("or", "and", ";", ",") if kind in kinds)
        return Node("list", (separator, *parts))

    def item(self, low: int, high: int) -> Node:
        """One answer: a relation or value, perhaps with words around it, or words alone."""
        while low < high - 1 and (self._is_word(low, words.LEAD_WORDS) or self._is_lead_sign(low)):
            low += 1
        low = self._after_verb(low, high)
        if not any(token.kind in ("text", "unit") for token in self.tokens[low:high]):
            return self.relation(low, high)
        for position in range(low + 1, high):
            if self._is_word(position, words.STOP_WORDS):
                high = position
                break
        relations = self.cuts(low, high, "rel")
        if relations and self.tokens[relations[0]].value == "=":
            first = relations[0]
            named = any(token.kind in ("text", "unit") for token in self.tokens[low:first])
            if named or len(relations) == 1:
                name = self._words(low, first) if named else self._first_member(low, first, relations)
                value = self.item(first + 1, high)
                operators, members = (value.args[0], value.args[1:]) if value.op == "rel" else ((), (value,))
                return Node("rel", (("=", *operators), name, *members))
        cut = self._suffix(low, high)
        if cut is not None:
            unit = self._words(cut, high)
            try:
                return Node("unit", (self.relation(low, cut), unit.args[0] if unit.op == "text" else ""))
            except ParseError:
                pass
        return self._words(low, high)

    def _after_verb(self, low: int, high: int) -> int:
        """`\\text{The height is } 5`: what follows the verb, if that is not words again."""
        verbs = [k for k in range(low + 1, high - 1) if self._is_word(k, words.VERBS)]
        if not verbs or self.tokens[verbs[-1] + 1].kind in ("text", "unit", "rel"):
            return low
        plain = all(token.kind in ("text", "unit", "sym") for token in self.tokens[low : verbs[-1]])
        return verbs[-1] + 1 if plain else low

    def relation(self, low: int, high: int) -> Node:
        """`a < b \\le c`, `x \\in S`, `x = 5`, `n \\equiv 3 \\pmod 7`, or a value."""
        modulus = next((k for k in self.cuts(low, high, "cmd") if self.tokens[k].value == "pmod"), None)
        end = high if modulus is None else modulus
        cuts = self.cuts(low, end, "rel")
        ranges = _ranges(low, end, cuts)
        members = [self._first_member(*ranges[0], cuts), *(self.ratio(a, b) for a, b in ranges[1:])]
        operators = tuple(self.tokens[cut].value for cut in cuts)
        if modulus is not None:
            # Members of a chain of congruences differ as numbers; the last one is what it says.
            named = cuts and is_name(members[0])
            value = Node("rel", (("=",), members[0], members[-1])) if named else members[-1]
            return Node("mod", (value, self.expression_in(modulus + 1, high)))
        return Node("rel", (operators, *members)) if cuts else members[0]

    def _first_member(self, low: int, high: int, cuts: list[int]) -> Node:
        """What stands before an equals sign may be any name: `P(X > 3) = 0.5`, `\\max = 7`."""
        try:
            return self.ratio(low, high)
        except ParseError:
            if low < high and cuts and self.tokens[cuts[0]].value == "=":
                return self._words(low, high)
            raise

    def ratio(self, low: int, high: int) -> Node:
        cuts = [cut for cut in self.cuts(low, high, "op") if self.tokens[cut].value == ":"]
        parts = [self.set_expression(a, b) for a, b in _ranges(low, high, cuts)]
        return parts[0] if len(parts) == 1 else Node("ratio", tuple(parts))

    def set_expression(self, low: int, high: int) -> Node:
        """Unions, intersections and differences, from left to right."""
        operators = {"cup": "union", "cap": "inter", "minus": "minus"}
        cuts = [cut for cut in self.cuts(low, high, "op") if self.tokens[cut].value in operators]
        cuts += [cut for cut in self.cuts(low, high, "sym") if self._is_union_letter(cut, low, high)]
        cuts.sort()
        parts = [self.expression_in(a, b) for a, b in _ranges(low, high, cuts)]
        node = parts[0]
        for cut, part in zip(cuts, parts[1:], strict=True):
            node = Node(operators.get(self.tokens[cut].value, "union"), (node, part))
        return node

    def _is_union_letter(self, position: int, low: int, high: int) -> bool:
        if self.tokens[position].value != "U" or not low < position < high - 1:
            return False
        before, after = self.tokens[position - 1], self.tokens[position + 1]
        return before.value in (")", "]", "}", r"\}") and after.value in ("(", "[", "{", r"\{")

    def _is_word(self, position: int, among: frozenset[str]) -> bool:
        token = self.tokens[position]
        return token.kind in ("text", "unit") and token.value.lower() in among

    def _is_lead_sign(self, position: int) -> bool:
        return self.tokens[position].kind == "rel" and self.tokens[position].value in ("~", "=")

    def _suffix(self, low: int, high: int) -> int | None:
        """Where trailing unit words begin, if only such words follow a value."""
        start = high
        for position in range(high - 1, low, -1):
            token = self.tokens[position]
            if token.kind in ("text", "unit"):
                start = position
            elif not (_in_unit(token) or (token.kind == "num" and self._is_exponent(position))):
                break
        # An opening brace or bracket before the first word belongs to the words: `5\,{\text{cm}}^2`.
        while start - 1 > low and start < high and self.tokens[start - 1].value in ("{", "("):
            start -= 1
        if start < high and self.tokens[start].value in ("th", "st", "nd", "rd") and not self.tokens[start].gap:
            return None  # an ordinal is not a number of something
        balance = sum({"(": 1, "{": 1, ")": -1, "}": -1}.get(str(t.value), 0) for t in self.tokens[start:high])
        return start if low < start < high and balance == 0 else None

    def _is_exponent(self, position: int) -> bool:
        before = [token.value for token in self.tokens[max(0, position - 3) : position]]
        return before[-1:] == ["^"] or before[-2:] == ["^", "{"] or before[-3:] == ["^", "{", "-"]

    def _words(self, low: int, high: int) -> Node:
        """Words in lower case without articles and punctuation; number words and set phrases become what they mean."""
        parts = [_plain(token) for token in self.tokens[low:high]]
        kept = [part for part in parts if part and part not in words.ARTICLES]
        phrase = " ".join(kept or [part for part in parts if part])
        if not phrase:
            raise ParseError("no words")
        phrase = words.SYNONYMS.get(phrase, phrase)
        if phrase in words.EMPTY_SET:
            return Node("set", ())
        if phrase in words.ALL_REALS:
            return Node("reals", ())
        if phrase == "infinity":
            return INFINITY
        if phrase in words.NUMBER_WORDS:
            return num(words.NUMBER_WORDS[phrase])
        return Node("text", (phrase,))


def _ranges(low: int, high: int, cuts: list[int]) -> list[tuple[int, int]]:
    return list(zip([low, *(cut + 1 for cut in cuts)], [*cuts, high], strict=True))


def _in_unit(token: Token) -> bool:
    return (token.kind == "op" and token.value in ("^", "{", "}", "/", "-", "(", ")", "*")) or token.kind == "mark"


def _plain(token: Token) -> str:
    if token.kind == "num":
        return str(token.value[2]).replace("_", "")
    if token.kind in ("op", "sep") and token.value in ("(", ")", "{", "}", ",", ";", ":", "'", "[", "]"):
        return ""
    return str(token.value).lower()
