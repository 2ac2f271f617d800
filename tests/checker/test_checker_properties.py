"""Properties that hold for every answer."""

import re
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_e2h.checker import judge
from rlhf_e2h.checker.verdict import REASONS

FEW = settings(max_examples=60, deadline=None)
numbers = st.integers(-(10**6), 10**6)
fractions = st.fractions(min_value=-1000, max_value=1000, max_denominator=500)
atoms = st.sampled_from(["x", "y", "2", "7", "a", r"\pi", r"\sqrt{3}", r"\frac{1}{2}", "13"])
sums = st.lists(atoms, min_size=2, max_size=5)


def equal(gold: str, answer: str) -> bool:
    verdict = judge.full(gold, answer)
    assert verdict.reason in REASONS
    return verdict.equal


@FEW
@given(sums, st.randoms(use_true_random=False))
def test_sums_and_products_may_be_reordered(parts, random):
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert equal("+".join(parts), " + ".join(shuffled))
    assert equal(r" \cdot ".join(parts), "".join(f"({part})" for part in shuffled))


@FEW
@given(sums)
def test_layout_does_not_matter(parts):
    gold = f"({'+'.join(parts)})"
    loose = re.sub(r"([+()])", r" \1 ", gold).replace(r"\frac", r"\dfrac")
    for answer in (loose, gold.replace("(", r"\left(").replace(")", r"\right)"), f"${gold}$", rf"\boxed{{{gold}}}"):
        assert equal(gold, answer)


@FEW
@given(numbers)
def test_thousands_separators(number):
    for answer in (f"{number:,}", f"{number:,}".replace(",", r",\!"), f"{number:,}".replace(",", "{,}"), f"{number}.0"):
        assert equal(str(number), answer)


@FEW
@given(fractions, fractions)
def test_fractions_agree_with_python(first, second):
    gold = rf"\frac{{{first.numerator}}}{{{first.denominator}}}"
    for answer in (f"{second.numerator}/{second.denominator}", f"{3 * second.numerator}/{3 * second.denominator}"):
        assert equal(gold, answer) == (first == second)
    assert equal(gold, f"{3 * first.numerator}/{3 * first.denominator}")


@FEW
@given(numbers, st.integers(1, 12))
def test_decimals_are_exact(number, places):
    value = Fraction(number, 10**places)
    decimal = f"{number / 10**places:.{places}f}"
    assert equal(f"{value.numerator}/{value.denominator}", decimal)
    assert not equal(f"{value.numerator}/{value.denominator}", decimal + "1")


@FEW
@given(
    st.text(alphabet="0123456789+-*/^(){}[]\\,.=<>|xyi eapiqrtfc_", max_size=30), st.sampled_from(["x+1", "5", "(1,2)"])
)
def test_any_text_gets_a_symmetric_verdict(text, gold):
    assert equal(gold, text) == equal(text, gold) or not text.strip()


@FEW
@given(st.text(max_size=40))
def test_any_text_equals_itself_or_is_no_answer(text):
    verdict = judge.full(text, text)
    assert verdict.equal or verdict.reason == "no_answer"
