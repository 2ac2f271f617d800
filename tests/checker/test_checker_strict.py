"""The paper's normalise-only grader. Verdicts were taken from the published code with its symbolic step off."""

import pytest

from rlhf_e2h.checker import equal

# Section 6 of the easy-to-hard notes lists these faults of the released grader; strict mode keeps them.
DIFFERENT = [
    ("x+1", "1+x"), ("0.25", r"\frac{1}{4}"), (r"2\sqrt{3}", r"\sqrt{12}"), (r"\frac{\sqrt2}{2}", r"\frac{1}{\sqrt2}"),
    ("2x+3y", "3y+2x"), ("(B)", "B"), (r"7\frac34", "31/4"), ("(x+1)(x-1)", "x^2-1"), (r"\{1,2\}", r"\{2,1\}"),
    ("1,2", "2,1"), (r"\frac24", r"\frac12"), ("9", "3^{2}"), ("5", "5 apples"), ("1000.99", "1,000.99"),
    (r"320000 \mbox{ acres}", "320000.5"), (r"\frac{\sqrt{3}}{4}", r"\frac\sqrt34"), ("x=5", "y=6"),
]  # fmt: skip
SAME = [
    ("5", "5.0"), ("10,000", "10000"), (r"\frac{1}{2}", "0.5"), (r"\frac{3}{4}", "3/4"), (r"\dfrac34", r"\frac{3}{4}"),
    (r"90^\circ", "90"), (r"\sqrt{3}", r"\sqrt3"), ("x=5", "5"), (r"\text{Evelyn}", "evelyn"), (r"12\text{ cm}", "12"),
    (r"\$5", "5"), (r"50\%", "50"), (r"10,\!080", "10080"), ("(1, 2)", "(1,2)"), (r"\left(1,2\right)", "(1,2)"),
    ("2007 + \\frac\\pi 2", "2007+pi/2"), (r"1 + \sqrt[3]{2}", r"1+\sqrt{2}"), ("1,000/3", "1000/3"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"), (r"320000 \mbox{ acres}", "320000"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_strict_says_different(gold, answer):
    assert equal(gold, answer, strict=True) == (False, "different")


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_strict_says_same(gold, answer):
    assert equal(gold, answer, strict=True) == (True, "string")


def test_strict_has_no_answer_to_an_empty_box():
    assert equal("5", r"\boxed{}", strict=True) == (False, "no_answer")
