"""Atoms of the grammar: numbers, names, brackets, fractions, roots, matrices; and the cursor they are read with."""

from __future__ import annotations

from rlhf_e2h.checker import vocabulary as words
from rlhf_e2h.checker.nodes import Node, ParseError, num
from rlhf_e2h.checker.tokens import Token

_OPENERS = frozenset(("(", "[", "{", r"\{"))
_FUNCTION_LETTERS = frozenset("fgh")
_PERHAPS_FUNCTION = frozenset("FGHPQTVpqr")
_MATRICES = {"pmatrix": "matrix", "bmatrix": "matrix", "matrix": "matrix", "smallmatrix": "matrix", "Bmatrix": "matrix",
             "array": "matrix", "vmatrix": "det", "psmallmatrix": "matrix", "bsmallmatrix": "matrix"}  # fmt: skip


class Atoms:
    """A cursor over tokens whose brackets have been matched, and what it can read at one place."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.position, self.end = 0, len(tokens)
        self.depth = 0
        self.match = _match_brackets(tokens)

    # -- cursor

    def peek(self, ahead: int = 0) -> Token | None:
        place = self.position + ahead
        return self.tokens[place] if place < self.end else None

    def take_op(self, *values: str) -> str | None:
        token = self.peek()
        if token is not None and token.kind == "op" and token.value in values:
            self.position += 1
            return str(token.value)
        return None

    def cuts(self, low: int, high: int, kind: str) -> list[int]:
        """Positions of tokens of this kind outside all brackets, environments included."""
        found = []
        position = low
        while position < high:
            token = self.tokens[position]
            if token.kind == kind:
                found.append(position)
            position = self.match.get(position, position) + 1
        return found

    # -- atoms

    def atom(self) -> Node:
        token = self.peek()
        if token is None:
            raise ParseError("an operand is missing")
        if token.kind == "op" and token.value in _OPENERS:
            return self.bracket()
        if token.kind == "op" and token.value == "|":
            return self.absolute()
        self.position += 1
        if token.kind == "num":
            return self._number(token)
        if token.kind == "const":
            return Node("const", (token.value,))
        if token.kind == "sym":
            return self.name(token.value)
        if token.kind == "fn":
            return self.call(token.value)
        if token.kind == "cmd":
            self.position -= 1
            return self.command(token.value)
        raise ParseError(f"unexpected {token.value!r}")

    def _number(self, token: Token) -> Node:
        following = self.peek()
        if following is not None and following.value == "_" and following.kind == "op":
            self.position += 1
            base = self.argument()
            if base.op != "num":
                raise ParseError("a base that is not a number")
            return Node("base", (token.value[2], int(base.args[0])))
        return num(token.value[0], token.value[1])

    def name(self, letter: str) -> Node:
        """A symbol with subscripts and primes, or `f(x)`."""
        while (token := self.peek()) is not None and token.kind == "op" and token.value in ("_", "'"):
            self.position += 1
            letter += "'" if token.value == "'" else "_" + self.raw_argument()
        inverse = [token.value for token in self.tokens[self.position : self.position + 6] if token.kind != "num"]
        if letter[0] in _FUNCTION_LETTERS and inverse == ["^", "{", "-", "}", "("]:
            self.position += 5
            letter += "^-1"
        token = self.peek()
        if token is not None and token.value == "(" and token.kind == "op":
            low, high = self.position + 1, self.match[self.position]
            simple = all(t.kind in ("sym", "num", "sep", "const") for t in self.tokens[low:high])
            if letter[0] in _FUNCTION_LETTERS or (letter[0] in _PERHAPS_FUNCTION and simple):
                self.position = high + 1
                inside = self.items(low, high)
                arguments = inside.args[1:] if inside.op == "list" else (inside,)
                return Node("fn", (f"apply:{letter}", *arguments))
        return Node("sym", (letter,))

    def raw_argument(self) -> str:
        """The characters of a subscript."""
        token = self.peek()
        if token is None:
            raise ParseError("an empty subscript")
        if token.value == "{":
            low, high = self.position + 1, self.match[self.position]
            self.position = high + 1
        else:
            low, high = self.position, self.position + 1
            self.position += 1
        return "".join(str(t.value[2] if t.kind == "num" else t.value) for t in self.tokens[low:high])

    def argument(self) -> Node:
        """A group in braces, or one token."""
        token = self.peek()
        if token is None:
            raise ParseError("an argument is missing")
        if token.kind == "op" and token.value == "{":
            return self.bracket()
        if token.kind in ("num", "sym", "const"):
            self.position += 1
            return num(*token.value[:2]) if token.kind == "num" else Node(token.kind, (token.value,))
        if token.kind == "cmd" or token.kind == "fn":
            return self.atom()
        raise ParseError(f"{token.value!r} is not an argument")

    def bracket(self) -> Node:
        """`(..)`, `[..]`, `{..}` or `\\{..\\}`: one item stands for itself, several make a tuple, interval or set."""
        low = self.position
        high = self.match[low]
        opening, closing = self.tokens[low].value, self.tokens[high].value
        self.position = high + 1
        if opening == r"\{" or closing == r"\}":
            return self.set_braces(low + 1, high)
        for command in ("choose", "over"):
            cut = [k for k in self.cuts(low + 1, high, "cmd") if self.tokens[k].value == command]
            if cut and opening == "{":
                above, below = self.expression_in(low + 1, cut[0]), self.expression_in(cut[0] + 1, high)
                return Node("fn", ("binom", above, below)) if command == "choose" else Node("div", (above, below))
        inside = self.items(low + 1, high)
        if inside.op != "list":
            if inside.op == "rel" or {opening, closing} not in ({"(", ")"}, {"[", "]"}, {"{", "}"}):
                raise ParseError("brackets that do not pair around one value")
            return inside
        if opening == "{":
            return Node("brace", inside.args[1:])
        return Node("tuple", (opening, closing, *inside.args[1:]))

    def set_braces(self, low: int, high: int) -> Node:
        if low == high:
            return Node("set", ())
        bars = [k for k in self.cuts(low, high, "op") if self.tokens[k].value in ("mid", "|", ":")]
        if bars and self.tokens[low].kind == "sym" and (bars[0] == low + 1 or self.tokens[low + 1].value == "in"):
            return Node("builder", (self.items(bars[0] + 1, high),))
        inside = self.items(low, high)
        return Node("set", inside.args[1:] if inside.op == "list" else (inside,))

    def absolute(self) -> Node:
        """`|x|`: the first closing bar that leaves an expression between them."""
        start = self.position
        bars = [k for k in self.cuts(start + 1, self.end, "op") if self.tokens[k].value == "|"]
        for bar in bars[:4]:
            try:
                inside = self.expression_in(start + 1, bar)
            except ParseError:
                continue
            self.position = bar + 1
            return Node("det", inside.args) if inside.op == "matrix" else Node("fn", ("abs", inside))
        raise ParseError("a bar without its partner")

    # -- commands

    def command(self, name: str) -> Node:
        if name == "frac":
            return self.fraction()
        start = self.position
        self.position += 1
        if name == "sqrt":
            return self.root()
        if name in ("binom", "dbinom", "tbinom"):
            above = self.argument()
            return Node("fn", ("binom", above, self.argument()))
        if name.startswith("begin:"):
            return self.environment(start, name.removeprefix("begin:"))
        if name in ("lfloor", "lceil"):
            return self.between(name)
        if name in ("mathbb", "Bbb"):
            letter = self.raw_argument()
            return Node("reals", ()) if letter == "R" else Node("sym", (f"set {letter}",))
        if name == "emptyset":
            return Node("set", ())
        if name in words.STYLE_COMMANDS or name in ("boxed", "fbox"):
            return self.argument()
        if name in words.ACCENTS:
            return Node("sym", (f"{'bar' if name in ('bar', 'overline') else 'vec'} {self.raw_argument()}",))
        if name in words.NAME_PREFIXES:
            letters = ""
            while (token := self.peek()) is not None and token.kind == "sym":
                self.position += 1
                letters += token.value
            return Node("sym", (f"{name} {letters}",))
        raise ParseError(f"\\{name} where a value should stand")

    def fraction(self) -> Node:
        r"""`\frac{a}{b}` and its short forms; with lost braces `\frac919` the first digit is above."""
        self.position += 1
        token = self.peek()
        if token is not None and token.kind == "num" and len(token.value[2]) > 1 and token.value[2].isdigit():
            self.position += 1
            return Node("div", (num(int(token.value[2][0])), num(int(token.value[2][1:]))))
        above = self.argument()
        below = self.argument()
        return Node("div", (above, below))

    def root(self) -> Node:
        index = num(2)
        token = self.peek()
        if token is not None and token.value == "[":
            index = self.bracket()
            token = self.peek()
        if token is not None and token.kind == "op" and token.value == "(":
            return Node("root", (self.bracket(), index))
        return Node("root", (self.argument(), index))

    def between(self, name: str) -> Node:
        high = self.match[self.position - 1]
        inside = self.expression_in(self.position, high)
        self.position = high + 1
        return Node("fn", ("floor" if name == "lfloor" else "ceil", inside))

    def environment(self, start: int, kind: str) -> Node:
        """A matrix; `array` has a column specification to pass over."""
        end = self.match[start]
        if kind not in _MATRICES:
            raise ParseError(f"environment {kind}")
        if kind == "array" and (token := self.peek()) is not None and token.value == "{":
            self.position = self.match[self.position] + 1
        rows: list[tuple[Node, ...]] = []
        for low, high in self._split(self.position, end, "cr"):
            if low < high:
                rows.append(tuple(self.expression_in(a, b) for a, b in self._split(low, high, "&")))
        self.position = end + 1
        if not rows or len({len(row) for row in rows}) != 1:
            raise ParseError("a matrix with rows of unequal length")
        return Node(_MATRICES[kind], tuple(rows))

    def _split(self, low: int, high: int, value: str) -> list[tuple[int, int]]:
        cuts = [k for k in self.cuts(low, high, "op") if self.tokens[k].value == value]
        return list(zip([low, *(k + 1 for k in cuts)], [*cuts, high], strict=True))

    # -- the rest of the grammar, in the classes below

    def items(self, low: int, high: int) -> Node:
        raise NotImplementedError

    def expression_in(self, low: int, high: int) -> Node:
        raise NotImplementedError

    def call(self, name: str) -> Node:
        raise NotImplementedError


def _match_brackets(tokens: list[Token]) -> dict[int, int]:
    """Opening to closing position. `[a,b)` pairs too; braces pair only with braces."""
    match: dict[int, int] = {}
    stack: list[int] = []
    for position, token in enumerate(tokens):
        closes = _closes(token)
        opens = token.kind == "cmd" and (token.value.startswith("begin:") or token.value in ("lfloor", "lceil"))
        if opens or (token.kind == "op" and token.value in _OPENERS):
            stack.append(position)
        elif closes is not None:
            if not stack or tokens[stack[-1]].value not in closes:
                raise ParseError(f"{token.value!r} closes nothing")
            match[stack.pop()] = position
    if stack:
        raise ParseError("a bracket is never closed")
    return match


def _closes(token: Token) -> tuple[str, ...] | None:
    """What may stand open before a closing token."""
    if token.kind == "op":
        either = ("(", "[", r"\{")
        return {")": either, "]": either, "}": ("{",), r"\}": (*either, "{")}.get(token.value)
    if token.kind == "cmd":
        if token.value.startswith("end:"):
            return (token.value.replace("end:", "begin:"),)
        return {"rfloor": ("lfloor",), "rceil": ("lceil",)}.get(token.value)
    return None
