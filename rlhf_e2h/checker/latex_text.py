r"""LaTeX to plain text, as far as the strict grader needs it: `\frac{a}{b}` to a/b, `\sqrt{a}` to √(a), π for `\pi`.

It gives the same text as the converter which the paper's grader calls (pylatexenc), down to its losses: the index of
a root, the argument of `\mbox` and every unknown command vanish.
"""

from __future__ import annotations

import re


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


_SYMBOLS = _pairs("""
pi:π infty:∞ cup:∪ cap:∩ cdot:· times:× div:÷ pm:± mp:∓ le:≤ leq:≤ ge:≥ geq:≥ neq:≠ approx:≈ sim:∼ equiv:≡
in:∈ notin:∉ subset:⊂ emptyset:∅ varnothing:∅ alpha:α beta:β gamma:γ delta:δ epsilon:ϵ varepsilon:ε theta:θ
lambda:λ mu:μ phi:ϕ varphi:φ omega:ω Omega:Ω Delta:Δ rho:ρ sigma:σ tau:τ psi:ψ eta:η zeta:ζ xi:ξ kappa:κ
nu:ν chi:χ circ:∘ ldots:… cdots:⋯ dots:… to:→ rightarrow:→ Rightarrow:⇒ angle:∠ perp:⊥ parallel:∥ setminus:∖
mid:| vert:| lvert:| rvert:| langle:⟨ rangle:⟩ lfloor:⌊ rfloor:⌋ lceil:⌈ rceil:⌉ lbrace:{ rbrace:} prime:'
sin:sin cos:cos tan:tan log:log ln:ln arctan:arctan arcsin:arcsin arccos:arccos exp:exp max:max min:min
leqslant:⩽ geqslant:⩾ wedge:∧ vee:∨ forall:∀ exists:∃ sum:∑ prod:∏ int:∫ ell:ℓ ast:∗
""")
_SYMBOLS |= {"quad": "  ", "qquad": "    ", ",": " ", ";": " ", ":": " ", " ": " ", "backslash": "\\", "\\": "\n"}
_DROPPED_ARGUMENT = frozenset(("mbox", "textsf"))
_MARKED = {
    "mathbf": "\u0332",
    "mathbb": "\u0333",
    "mathcal": "\u0334",
    "bar": "\u0305",
    "vec": "\u20d7",
    "hat": "\u0302",
}
_TOKEN = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+\s*|\\.|[{}&]|[^\\{}&]+", re.S)
_TAKES_ARGUMENTS = frozenset(("frac", "sqrt", "text", "mathrm", "overline", *_DROPPED_ARGUMENT, *_MARKED))
_ESCAPES = frozenset("%$#&_{}")
_BRACKETED = ("pmatrix", "bmatrix", "smallmatrix", "array")
MAX_DEPTH = 40


def latex_to_text(text: str) -> str:
    """Raises ValueError where brackets do not pair; the caller then keeps the text as it is."""
    tokens = _TOKEN.findall(text)
    out, position = _read(tokens, 0, None, 0)
    if position != len(tokens):
        raise ValueError("a brace closes nothing")
    return out


def _read(tokens: list[str], position: int, stop: str | None, depth: int) -> tuple[str, int]:
    """Text up to the token `stop` (or the end), and the position behind it."""
    if depth > MAX_DEPTH:
        raise ValueError("nested too deep")
    out = ""
    while position < len(tokens):
        token = tokens[position]
        if stop is not None and re.sub(r"\s", "", token) == stop:
            return out, position + 1
        if token == "}" or token.startswith("\\end"):
            return (out, position) if stop is None else _fail(stop)
        piece, position = _item(tokens, position, depth)
        out += piece
    return (out, position) if stop is None else _fail(stop)


def _fail(stop: str) -> tuple[str, int]:
    raise ValueError(f"{stop} is missing")


def _item(tokens: list[str], position: int, depth: int) -> tuple[str, int]:
    token = tokens[position]
    if token == "{":
        return _read(tokens, position + 1, "}", depth + 1)
    if token.startswith("\\begin"):
        return _environment(tokens, position, depth)
    if not token.startswith("\\"):
        return token, position + 1
    name = token[1:].strip() or " "
    position += 1
    if name == "frac":
        above, position = _argument(tokens, position, depth)
        below, position = _argument(tokens, position, depth)
        return f"{above}/{below}", position
    if name == "sqrt":
        if position < len(tokens) and tokens[position].startswith("["):
            tokens[position] = tokens[position].partition("]")[2]
        inside, position = _argument(tokens, position, depth)
        return f"√({inside})", position
    if name in _DROPPED_ARGUMENT or name in _MARKED:
        inside, position = _argument(tokens, position, depth)
        mark = _MARKED.get(name, "") if re.search("[A-Za-z]", inside) else ""
        return ("" if name in _DROPPED_ARGUMENT else inside + mark), position
    if name in _SYMBOLS:
        return _SYMBOLS[name], position
    return (name if name in _ESCAPES else ""), position


def _argument(tokens: list[str], position: int, depth: int) -> tuple[str, int]:
    """A group, a command, or one character of running text."""
    while position < len(tokens) and not tokens[position].strip():
        position += 1
    if position >= len(tokens):
        raise ValueError("an argument is missing")
    token = tokens[position]
    if token.startswith("\\") and token[1:].strip() in _TAKES_ARGUMENTS:
        raise ValueError(f"{token} needs braces around it and its arguments")
    if token == "{" or token.startswith("\\"):
        return _item(tokens, position, depth + 1)
    if token in ("}", "&"):
        raise ValueError("an argument is missing")
    token = token.lstrip()
    tokens[position] = token[1:]
    return token[0], position if token[1:] else position + 1


def _environment(tokens: list[str], position: int, depth: int) -> tuple[str, int]:
    name = re.sub(r"\\begin|[\s{}]", "", tokens[position])
    position += 1
    if name == "array" and position < len(tokens) and tokens[position] == "{":
        _, position = _read(tokens, position + 1, "}", depth + 1)
    inside, position = _read(tokens, position, f"\\end{{{name}}}", depth + 1)
    rows = [" ".join(cell.strip() for cell in row.split("&")) for row in inside.split("\n") if row.strip()]
    return (f"[ {'; '.join(rows)} ]" if name in _BRACKETED else "\n".join(rows)), position
