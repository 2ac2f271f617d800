"""The expression part of the grammar: sums, products, powers, functions, brackets, matrices."""

from __future__ import annotations

from fractions import Fraction

from rlhf_e2h.checker import vocabulary as words
from rlhf_e2h.checker.atoms import Atoms
from rlhf_e2h.checker.nodes import IMAGINARY, PI, ZERO, Node, ParseError, RefusedError, has, negate, num, rebuild
from rlhf_e2h.checker.tokens import Token

MAX_RECURSION = 60
_STARTS_ATOM = frozenset(("sym", "const", "fn", "cmd"))


class Expressions(Atoms):
    """Recursive descent over `self.tokens[self.position:self.end]`."""

    def expression_in(self, low: int, high: int) -> Node:
        """The expression that fills this range exactly."""
        if low >= high:
            raise ParseError("an empty expression")
        saved = self.position, self.end
        self.position, self.end = low, high
        self.depth += 1
        if self.depth > MAX_RECURSION:
            raise RefusedError(f"nested more than {MAX_RECURSION} deep")
        try:
            node = self.expression()
            if self.position != high:
                raise ParseError("an expression that ends too early or runs over its bracket")
            return node
        finally:
            self.position, self.end = saved
            self.depth -= 1

    def expression(self) -> Node:
        node = self._signed_term()
        while (sign := self.take_op("+", "-", "pm", "mp")) is not None:
            right = self.term()
            if sign in ("+", "-"):
                part = right if sign == "+" else negate(right)
                node = Node("add", (*node.args, part) if node.op == "add" else (node, part))
            else:
                node = Node(sign, (node, right))
        return node

    def _signed_term(self) -> Node:
        sign = self.take_op("+", "-", "pm", "mp")
        if sign is None:
            return self.term()
        node = self.term()
        if sign == "+":
            return node
        return negate(node) if sign == "-" else Node(sign, (ZERO, node))

    def term(self) -> Node:
        node = self.mixed_number() or self.factor()
        while True:
            sign = self.take_op("*", "/", "mod")
            if sign is not None:
                right = self.mixed_number() or self.factor()
                if sign == "mod":
                    node = Node("fn", ("mod", node, right))
                else:
                    node = Node("div", (node, right)) if sign == "/" else _product(node, right)
            elif self.at_factor():
                node = _product(node, self.factor())
            else:
                return node

    def at_factor(self) -> bool:
        """A factor may follow without a sign: not a number, which would glue digits that stood apart."""
        token = self.peek()
        if token is None:
            return False
        if token.kind == "num":
            return self._after_exponent(token)
        if token.kind == "cmd" and token.value in ("choose", "over", "pmod"):
            return False
        return token.kind in _STARTS_ATOM or (token.kind == "op" and token.value in ("(", "[", "{", "|"))

    def _after_exponent(self, token: Token) -> bool:
        """`2^{3}3^{2}`, `2^3 3^2` and `2!3!`: a number may follow an exponent or a factorial."""
        last = self.position - 1
        if self.tokens[last].value == "!":
            return True
        if self.tokens[last].value == "}":
            opening = next((low for low, high in self.match.items() if high == last), 0)
            return self.tokens[opening - 1].value == "^"
        return token.gap and last > 0 and self.tokens[last].kind == "num" and self.tokens[last - 1].value == "^"

    def mixed_number(self) -> Node | None:
        r"""`3\frac{1}{2}`, `3 1/2`: an integer, then a proper fraction of two integers, nothing between them."""
        token = self.peek()
        if token is None or token.kind != "num" or not token.value[2].isdigit():
            return None
        start = self.position
        following = self.peek(1)
        if following is None:
            return None
        self.position += 1
        fraction = None
        if following.kind == "cmd" and following.value == "frac":
            fraction = self.fraction()
        elif following.kind == "num" and following.gap and (slash := self.peek(1)) and slash.value == "/":
            below = self.peek(2)
            if below is not None and below.kind == "num":
                fraction = Node("div", (num(following.value[0]), num(below.value[0])))
                self.position += 3
        if fraction is not None and fraction.op == "div":
            above, below_node = fraction.args
            if above.op == below_node.op == "num" and 0 < above.args[0] < below_node.args[0]:
                whole = Fraction(token.value[0])
                if above.args[0].denominator == below_node.args[0].denominator == 1:
                    return self.power(num(whole + above.args[0] / below_node.args[0]))
        self.position = start
        return None

    def factor(self) -> Node:
        sign = self.take_op("-", "+")
        if sign is not None:
            node = self.factor()
            return negate(node) if sign == "-" else node
        return self.power(self.atom())

    def power(self, base: Node) -> Node:
        self.depth += 1
        if self.depth > MAX_RECURSION:
            raise RefusedError(f"nested more than {MAX_RECURSION} deep")
        try:
            while True:
                base = self._postfix(base)
                if self.take_op("^") is None:
                    return base
                if self._take_degree():
                    base = Node("deg", (base,))
                else:
                    base = Node("pow", (base, self.exponent()))
        finally:
            self.depth -= 1

    def _postfix(self, base: Node) -> Node:
        while (token := self.peek()) is not None:
            if token.kind == "op" and token.value == "!":
                base = Node("fn", ("factorial", base))
            elif token.kind == "mark":
                base = base if token.value == "percent" else Node("deg", (base,))
            else:
                break
            self.position += 1
        return base

    def _take_degree(self) -> bool:
        r"""After `^`: `\circ` or `{\circ}`, and a following `C` or `F`."""
        shape = [t.value for t in self.tokens[self.position : min(self.position + 3, self.end)]]
        length = 1 if shape[:1] == ["circ"] else 3 if shape == ["{", "circ", "}"] else 0
        self.position += length
        scale = self.peek()
        if length and scale is not None and scale.value in ("C", "F") and self.position == self.end - 1:
            self.position += 1
        return bool(length)

    def exponent(self) -> Node:
        sign = self.take_op("-", "+")
        node = self.atom()
        if self.take_op("^") is not None:
            node = Node("pow", (node, self.exponent()))
        return negate(node) if sign == "-" else node

    def call(self, name: str) -> Node:
        r"""After a function's name: `_b`, `^n` or `^{-1}`, then brackets or the product that follows (`\sin 2x`)."""
        base = self.argument() if self.take_op("_") is not None else None
        power = self.exponent() if self.take_op("^") is not None else None
        arguments = self._call_arguments()
        if name in words.TRIGONOMETRIC:
            arguments = [_to_radians(argument) for argument in arguments]
            if power is not None and power == num(-1):
                name, power = f"arc{name}", None
        if name == "cis" and len(arguments) == 1:
            angle = _to_radians(arguments[0])
            return Node("add", (Node("fn", ("cos", angle)), _product(IMAGINARY, Node("fn", ("sin", angle)))))
        if name == "log" and base is not None:
            arguments.append(base)
        elif base is not None:
            raise ParseError(f"a subscript on {name}")
        node = Node("fn", (name, *arguments))
        return node if power is None else Node("pow", (node, power))

    def _call_arguments(self) -> list[Node]:
        token = self.peek()
        if token is None:
            raise ParseError("a function without an argument")
        if token.kind == "op" and token.value in ("(", "[", "{"):
            low, high = self.position + 1, self.match[self.position]
            self.position = high + 1
            inside = self.items(low, high)
            return list(inside.args[1:]) if inside.op == "list" else [inside]
        node = self.mixed_number() or self.factor()
        while (token := self.peek()) is not None and token.kind != "fn" and self.at_factor():
            node = _product(node, self.factor())
        return [node]


def _product(left: Node, right: Node) -> Node:
    return Node("mul", (*left.args, right) if left.op == "mul" else (left, right))


def _to_radians(node: Node) -> Node:
    if not has(node, "deg"):
        return node
    if node.op == "deg":
        return Node("mul", (node.args[0], Node("div", (PI, num(180)))))
    return rebuild(node, _to_radians)
