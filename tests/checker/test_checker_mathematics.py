"""The parts that decide: exact values, many digits, canonical forms, sets of reals. Expected by hand or Python."""

import math
from fractions import Fraction

import pytest

from rlhf_e2h.checker.approximate import Digits, Evaluator, Floats, Undecided
from rlhf_e2h.checker.canonical import same_form
from rlhf_e2h.checker.exact import InexactError, exact
from rlhf_e2h.checker.nodes import Node, RefusedError
from rlhf_e2h.checker.parser import parse
from rlhf_e2h.checker.realsets import NotASet, same_set
from rlhf_e2h.checker.scalars import same_full, same_quick


def tree(text: str) -> Node:
    node = parse(text)
    assert isinstance(node, Node), node
    return node


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac{3}{4}+\frac16", Fraction(11, 12)), (r"2^{-3}", Fraction(1, 8)), ("7!", 5040), (r"\binom{10}{3}", 120),
        (r"\sqrt{\frac{9}{16}}", Fraction(3, 4)),
        (r"\sqrt[3]{-27}", -3), (r"16^{3/4}", 8), (r"\log_4 8", Fraction(3, 2)),
        (r"\lfloor -2.5 \rfloor", -3), ("|2-5|", 3), (r"\begin{vmatrix}1&2\\3&4\end{vmatrix}", -2), ("-3^2", -9),
        ("2^3^2", 512), ("1/2/2", Fraction(1, 4)), (r"0.1\overline{6}", Fraction(1, 6)), (r"\gcd(12,18)", 6),
    ],
)  # fmt: skip
def test_exact_values(text, value):
    assert exact(tree(text), {}) == value


@pytest.mark.parametrize("text", [r"\sqrt2", r"\pi", r"\sin 1", r"\log_2 3", r"\sqrt{-4}"])
def test_irrational_values_are_not_exact(text):
    with pytest.raises(InexactError):
        exact(tree(text), {})


@pytest.mark.parametrize("text", ["2^{99999999}", "9^9^9^9", "1000000!", r"\binom{10^8}{5000}", "(2^{30000})^{30000}"])
def test_huge_values_are_refused(text):
    with pytest.raises(RefusedError):
        exact(tree(text), {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\sin 30^\circ", 0.5),
        (r"\ln 10", math.log(10)),
        (r"e^{i\pi}", -1),
        (r"\arctan 1", math.pi / 4),
        (r"\sqrt{-4}", 2j),
    ],
)
def test_floats_and_digits_agree_with_python(text, value):
    for backend in (Floats(), Digits(40)):
        assert abs(complex(Evaluator(backend, {}).value(tree(text))) - value) < 1e-12


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"\frac{1}{\sqrt3}", r"\frac{\sqrt3}{3}"), (r"\sqrt{50}", r"5\sqrt2"), ("2ab", "b(2a)"),
        (r"(1+\sqrt2)^2", r"3+2\sqrt2"),
        (r"\sqrt{-4}", "2i"), ("i^3", "-i"), (r"\frac{2\pi}{6}", r"\frac{\pi}{3}"), (r"\sqrt[3]{54}", r"3\sqrt[3]{2}"),
        (r"\frac{1}{\frac{1}{x}}", "x"), (r"\frac{2}{2x+2}", r"\frac{1}{x+1}"),
    ],
)  # fmt: skip
def test_canonical_forms_prove_equality(left, right):
    assert same_form(tree(left), tree(right))


def test_canonical_forms_draw_no_root_from_what_may_be_negative():
    assert not same_form(tree(r"\sqrt{x^2}"), tree("x"))
    assert not same_form(tree(r"\sqrt{2}"), tree(r"\sqrt{3}"))


def test_digits_resolve_what_floats_cannot():
    # e^{\pi\sqrt{163}} = 262537412640768743.99999999999925...
    near = tree(r"e^{\pi\sqrt{163}}"), tree("262537412640768744")
    with pytest.raises(Undecided):
        same_quick(*near)
    assert not same_full(*near)
    assert same_full(tree(r"\sqrt{5+2\sqrt6}"), tree(r"\sqrt2+\sqrt3"))
    assert not same_full(tree(r"2^{\frac{1}{2^{1000}}}"), tree("1"))
    assert not same_full(tree(r"e^{-2000}"), tree("0"))


def test_sets_of_reals():
    def same(left, right):
        return same_set(tree(left), tree(right), same_quick)

    assert same(r"(0,1]\cup[1,2)", "(0,2)")
    assert not same(r"(0,1)\cup(1,2)", "(0,2)")
    assert same(r"(0,36)\setminus\{9\}", r"(0,9)\cup(9,36)")
    assert same(r"3x-1>5", r"(2,\infty)")
    assert same(r"[0,2]\cap[1,3]", "[1,2]")
    with pytest.raises(NotASet):
        same("(3,1)", "(1,3)")
    with pytest.raises(NotASet):
        same("x^2<4", "(-2,2)")  # for the solver, in a worker
