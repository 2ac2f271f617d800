"""The decision about one pair: `quick` in the calling process, `full` in a worker."""

from __future__ import annotations

import re
from collections.abc import Hashable
from functools import lru_cache

from rlhf_e2h.checker import second_opinion
from rlhf_e2h.checker.approximate import Undecided
from rlhf_e2h.checker.canonical import canonical
from rlhf_e2h.checker.compare import same_answer
from rlhf_e2h.checker.exact import InexactError, UndefinedError
from rlhf_e2h.checker.extract import box_run, read
from rlhf_e2h.checker.nodes import Node, ParseError, RefusedError, is_scalar
from rlhf_e2h.checker.normalise import squeeze
from rlhf_e2h.checker.parser import parse
from rlhf_e2h.checker.prose import last_side
from rlhf_e2h.checker.scalars import Same, same_full, same_quick
from rlhf_e2h.checker.turns import own_words
from rlhf_e2h.checker.verdict import Verdict

VERSION = "4"  # part of the key of verdicts on disk: raise it when a verdict can change

# A choice, and a choice with its text: `\text{(B)}`; `B: the second one`, `(B) 12`, `\textbf{(B)}\ 12`.
_LETTER = re.compile(r"(?:\\(?:text\w*|mathrm|mathbf)\{)?\(?([A-Za-z])[).:]{0,2}\}?\Z")
_OPTION = re.compile(
    r"(?:\\(?:text\w*|mathrm|mathbf)\{)?(?:\(([A-Z])\)|([A-Z])[).:](?=.{2}|\d)|([A-Z])\}?-(?=[A-Za-z]{3}))\}?(?![}:]*\Z)"
)


def preload() -> None:
    """What a worker loads before it says that it is ready, so that no comparison pays for imports."""
    from rlhf_e2h.checker import solver

    second_opinion.preload()
    # sympy imports and caches much on its first inequality; a job's two seconds are not for that.
    solver.solve_inequalities(_tree("|x| < 2"))
    same_full(_tree(r"\sqrt{5+2\sqrt{6}}"), _tree(r"\sqrt{2}+\sqrt{3}"))


def _tree(text: str) -> Node:
    tree = parse(text)
    assert isinstance(tree, Node)
    return tree


def cache_key(gold: str, answer: str) -> tuple[str, str]:
    """The normalised pair. Answers with other readings keep them, since the gold answer decides how they are read."""
    return "\0".join(_forms(gold)), "\0".join(_forms(answer))


@lru_cache(maxsize=4096)
def _forms(text: str) -> tuple[str, ...]:
    """(answer, list of the boxes at the end, last side of a relation in running text); the last two may be empty.

    No answer is the empty tuple.
    """
    source, answer = read(text)
    if not answer:
        return ()
    run = box_run(own_words(text)) if text.count("boxed") > 1 else []
    side = last_side(answer) if source in ("phrase", "text") else None
    return squeeze(answer), ", ".join(run), squeeze(side or "")


def quick(gold: str, answer: str) -> Verdict | None:
    """A verdict that needs no worker, else None."""
    left, right = _forms(gold), _forms(answer)
    if not right:
        return Verdict(False, "no_answer")
    if not left:
        return Verdict(False, "unparsable")
    verdicts = [_decide(g, a, same_quick) for g, a in _readings(left, right)]
    for verdict in verdicts:
        if verdict is not None and verdict.equal:
            return verdict
    return None if None in verdicts else verdicts[0]


def class_key(answer: str) -> Hashable | None:
    """Equal keys mean equal answers; None for no answer. Cheap: grouping by it saves most comparisons."""
    forms = _forms(answer)
    if not forms:
        return None
    tree = parse(forms[0])
    if isinstance(tree, Node) and is_scalar(tree):
        try:
            return ("form", canonical(tree))
        except (InexactError, UndefinedError, ValueError):
            pass
    return forms[0]


def full(gold: str, answer: str) -> Verdict:
    """The same with many digits, a solver, and Math-Verify for what the grammar does not know. Runs in a worker."""
    verdicts = []
    for left, right in _readings(_forms(gold), _forms(answer)):
        verdict = _decide(left, right, same_full)
        if verdict is None:
            verdict = _solved(left, right)
        if verdict is None or (verdict.reason == "unparsable" and second_opinion.worth_asking(left, right)):
            verdict = second_opinion.ask(left, right)
        if verdict.equal:
            return verdict
        verdicts.append(verdict)
    return verdicts[0] if verdicts else Verdict(False, "no_answer" if not _forms(answer) else "unparsable")


def _solved(left: str, right: str) -> Verdict | None:
    """Inequalities and equations that need sympy."""
    from rlhf_e2h.checker import solver

    a, b = parse(left), parse(right)
    if isinstance(a, Exception) or isinstance(b, Exception):
        return None
    try:
        if a.op == b.op == "rel" and solver.same_equation(a, b):
            return Verdict(True, "symbolic")
        same = same_answer(solver.solve_inequalities(a), solver.solve_inequalities(b), same_full)
        return Verdict(same, "symbolic" if same else "different")
    except (Undecided, solver.Unsolved):
        return None
    except RefusedError:
        return Verdict(False, "refused")
    except ParseError:
        return Verdict(False, "unparsable")


def _readings(left: tuple[str, ...], right: tuple[str, ...]) -> list[tuple[str, str]]:
    """The answers against each other, and where the other side asks for it: several boxes as one list against a list
    or set, the last side of a relation in running text against a side that is not a relation."""
    if not left or not right:
        return []
    pairs = [(left[0], right[0])]
    for one, other, swapped in ((left, right, False), (right, left, True)):
        if other[1] and _is(one[0], "list", "set", "brace"):
            pairs.append((other[1], one[0]) if swapped else (one[0], other[1]))
        if other[2] and not _is(one[0], "rel", "list"):
            pairs.append((other[2], one[0]) if swapped else (one[0], other[2]))
    if left[1] and right[1]:
        pairs.append((left[1], right[1]))
    return pairs


def _is(text: str, *ops: str) -> bool:
    tree = parse(text)
    return isinstance(tree, Node) and tree.op in ops


def _decide(left: str, right: str, same: Same) -> Verdict | None:
    """None: `same` cannot tell, or a side is outside the grammar and might be worth a second opinion."""
    if left == right:
        return Verdict(True, "string")
    choice = _same_choice(left, right)
    if choice is not None:
        return Verdict(choice, "string" if choice else "different")
    a, b = parse(left), parse(right)
    if isinstance(a, RefusedError) or isinstance(b, RefusedError):
        return Verdict(False, "refused")
    if isinstance(a, Exception) or isinstance(b, Exception):
        ask = same is same_quick and second_opinion.worth_asking(left, right)
        return None if ask else Verdict(False, "unparsable")
    try:
        if same_answer(a, b, same):
            return Verdict(True, _reason(a, b))
        if (alternative := _unmerged(left, right, a, b)) is not None and same_answer(*alternative, same):
            return Verdict(True, "symbolic")
    except Undecided:
        return None
    except ParseError:
        return Verdict(False, "unparsable")
    except (ValueError, ArithmeticError, RecursionError, MemoryError):
        # RefusedError, or what arithmetic on a model's text may still run into: this item is lost, the run goes on.
        return Verdict(False, "refused")
    if _only_words(a) != _only_words(b):
        return Verdict(False, "unparsable" if _only_words(b) else "different")
    return Verdict(False, "different")


def _same_choice(left: str, right: str) -> bool | None:
    """A letter against a letter in the other case, or against a letter with its text; None for anything else.

    Single letters without a mark are the same in either case only if they are among the first of the alphabet.
    """
    a, b = _LETTER.match(left), _LETTER.match(right)
    if a and b:
        marked = max(len(left), len(right)) > 1 or left.lower() in "abcdfgh"
        return True if marked and a[1].lower() == b[1].lower() else None
    for letter, other in ((a, right), (b, left)):
        if letter and (option := _OPTION.match(other)):
            return letter[1].upper() == next(filter(None, option.groups()))
    return None


def _unmerged(left: str, right: str, a: Node, b: Node) -> tuple[Node, Node] | None:
    """`100,200,300` read as a list when the other side is a list of as many."""
    for text, tree, other, first in ((left, a, b, True), (right, b, a, False)):
        if tree.op == "num" and other.op == "list" and "," in text:
            again = parse(text, False)
            if isinstance(again, Node) and again.op == "list" and len(again.args) == len(other.args):
                return (again, other) if first else (other, again)
    return None


def _only_words(tree: Node) -> bool:
    return tree.op == "text"


def _reason(a: Node, b: Node) -> str:
    plain = frozenset(("num", "div", "mul", "unit", "deg"))
    numbers = all(is_scalar(side) or side.op == "unit" for side in (a, b)) and a.op in plain and b.op in plain
    return "number" if numbers and not _has_names(a) and not _has_names(b) else "symbolic"


def _has_names(node: Node) -> bool:
    from rlhf_e2h.checker.nodes import has

    return has(node, "sym", "const", "root", "fn", "pow")
