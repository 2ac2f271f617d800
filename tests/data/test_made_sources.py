"""Worlds made by a rule: the formats of addition against Lee et al. 2023, parities by hand."""

import numpy as np
import pytest

from rlhf_e2h.data import addition, parity
from rlhf_e2h.data.solution_formats import read_answer, render
from rlhf_e2h.data.tokenizers import procedural_tokenizer

# arXiv 2307.03381, figure 3: 128+367=495 is 594 in reverse; its scratchpad is A->5, C->1; A->9, C->0; A->4, C->0, with
# the sums 8+7+0=15, 2+6+1=9 and 1+3+0=4
SUM = "128+367"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("answer", "# Answer\n\n495"),
        ("reversed", "# Answer\n\n594"),
        ("simplified", "ac=51\n\nac=90\n\nac=40\n\n# Answer\n\n495"),
        (
            "full",
            "ac=128+367;a=;c=0;8+7+0 =15=51\n\nac=12+36;a=5;c=1;2+6+1 =9=90\n\n"
            "ac=1+3;a=95;c=0;1+3+0 =4=40\n\n# Answer\n\n495",
        ),
    ],
)
def test_the_four_formats_of_a_sum(form, text):
    assert render(*addition.scratchpad(SUM), form) == text
    assert read_answer(text, form) == "495"
    tokens = procedural_tokenizer().tokenize(text.replace("# Answer", "").replace("\n", ""))
    assert tokens == list(text.replace("# Answer", "").replace("\n", ""))  # a character a token, none unknown


def test_a_sum_may_have_a_digit_more_and_zeros():
    steps, answer = addition.scratchpad("95+10")
    assert ([step[-3:] for step in steps], answer) == (["=50", "=01"], "105")
    assert read_answer("# Answer\n\n001", "reversed") == "100"


def test_levels_of_addition_are_digits_and_the_first_one_ends():
    rng = np.random.default_rng(0)
    for level in (1, 2, 5):
        assert all(len(part) == level for part in addition.make_addition(level, rng).split("+"))
    rows = addition.make_problems({1: 100}, seed=0)
    assert len({row["problem"] for row in rows}) == 100
    with pytest.raises(ValueError, match="after 30 of them"):
        addition.make_problems({1: 31}, seed=1, exclude=[row["problem"] for row in rows[:70]])


def test_parities_by_hand():
    text = "adehjlmprtux"  # d, h, j and l come second in their pair among the first six
    assert [parity.solve(f"{level}{text}") for level in (1, 2, 5)] == [([], "0"), ([], "1"), ([], "1")]
    rows = parity.make_problems({1: 20, 3: 20}, seed=0)
    for row in rows:
        odd = [int(letter in "bdfhjlnprtvx") for letter in row["problem"][1 : 1 + row["level"]]]
        assert row["answer"] == str(sum(odd) % 2)
        assert row["solution"] == f"# Answer\n\n{row['answer']}"
    assert {len(row["problem"]) for row in rows} == {13}
