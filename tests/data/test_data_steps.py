"""Where a written solution is cut into steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_e2h.data.steps import solution_steps, solution_text
from rlhf_e2h.prompts import SECTIONS


@pytest.mark.parametrize(
    ("solution", "steps"),
    [
        ("We add. Then $x = 2.$ So done.", ["We add.", "Then $x = 2.$", "So done."]),
        ("By Dr. Who, we get it. $x$ is 3.", ["By Dr. Who, we get it.", "$x$ is 3."]),
        ("It is 3.5 m long.", ["It is 3.5 m long."]),
        ("First line\nSecond line", ["First line", "Second line"]),
        ("First,\nthe second", ["First,\nthe second"]),
        ("so we\nhave it", ["so we\nhave it"]),
        ("We find:\nThis is 3.", ["We find:\nThis is 3."]),
        ("We have\n\\[x = 1.\\]\nThus it is.", ["We have\n\\[x = 1.\\]", "Thus it is."]),
        ("We have \\[x = 1\\] where $x$ is. Good.", ["We have \\[x = 1\\] where $x$ is.", "Good."]),
        ("We have \\[x = 1\\]Hence ok", ["We have \\[x = 1\\]", "Hence ok"]),
        (
            "\\begin{align*} x &= 1. \\\\ \n\n y &= 2. \\end{align*} A full stop. Inside.",
            ["\\begin{align*} x &= 1. \\\\\n y &= 2. \\end{align*}", "A full stop.", "Inside."],
        ),
        ("It costs \\$5. It is $3$. Fine.", ["It costs \\$5.", "It is $3$.", "Fine."]),
        (
            "[asy]\ndraw((0,0)--(1,1));\n\ndot((0,0));\n[/asy]\nSee. Go.",
            ["[asy]\ndraw((0,0)--(1,1));\ndot((0,0));\n[/asy]", "See.", "Go."],
        ),
        ("A lone $ sign.\n\nThen. More.", ["A lone $ sign.", "Then.", "More."]),
        ("Is it? Yes! (Sure.) Done", ["Is it?", "Yes!", "(Sure.)", "Done"]),
        ("1. First. \n2. Second.", ["1. First.", "2. Second."]),
        ("One.\n\n\n  \nTwo.", ["One.", "Two."]),
        ("", []),
    ],
)
def test_steps(solution: str, steps: list[str]) -> None:
    assert solution_steps(solution) == steps


def test_text_ends_with_the_answer() -> None:
    assert solution_text("We add. So 5.", "5") == "We add.\n\nSo 5.\n\n# Answer\n\n5"
    assert solution_text("a=4+5=2\n\n# Answer\n\n2", "2") == "a=4+5=2\n\n# Answer\n\n2"  # in that form already
    assert solution_text("", "5") == "# Answer\n\n5"


def squeeze(text: str) -> str:
    return re.sub(r"\s", "", text)


def check_round_trip(solution: str) -> None:
    steps = solution_steps(solution)
    assert squeeze("".join(steps)) == squeeze(solution)
    assert all(step and step == step.strip() and "\n\n" not in step for step in steps)
    text = SECTIONS.solution(steps, "5")
    assert SECTIONS.split_steps(text) == [*steps, "# Answer\n\n5"]


@given(
    st.lists(
        st.sampled_from(
            ["$", ".", "\n", "\n\n", " ", "A", "so", "\\[", "\\]", "x=1", "[asy]", "[/asy]", "Dr.", ",", "\\$"]
        )
    )
)
def test_nothing_but_space_is_lost(parts: list[str]) -> None:
    check_round_trip("".join(parts))


def test_a_quarter_of_real_math(shared_data: Path) -> None:
    counts = []
    for name in ("math_train.jsonl", "math_test.jsonl"):
        for line in (shared_data / name).read_text().splitlines()[::4]:
            solution = json.loads(line)["solution"]
            check_round_trip(solution)
            counts.append(len(solution_steps(solution)))
    assert len(counts) == 12500 / 4
    assert 4 < sum(counts) / len(counts) < 6  # neither whole paragraphs nor fragments


@pytest.mark.parametrize(
    ("solution", "steps"),
    [
        # money of GSM8K: what stands between two dollar signs is no formula
        (
            "She makes $0.2 per minute.\nWorking 50 minutes, she earned 0.2*50 = $10.\nThat is $10-$2=$8.",
            ["She makes $0.2 per minute.", "Working 50 minutes, she earned 0.2*50 = $10.", "That is $10-$2=$8."],
        ),
        ("Rent: 350$\nFood: 50+2(350)=750$", ["Rent: 350$", "Food: 50+2(350)=750$"]),
        ("The total was 2*340 = $ 680\nBoth spent 1020$", ["The total was 2*340 = $ 680", "Both spent 1020$"]),
        # formulas: over a line end, with blanks at the ends, with money inside
        ("Let $x\\le\nY$ hold. Then", ["Let $x\\le\nY$ hold.", "Then"]),
        ("So $ 2 + 3 = 5. Q$ holds.", ["So $ 2 + 3 = 5. Q$ holds."]),
        ("We pay $\\$5. A$ in all. Yes", ["We pay $\\$5. A$ in all.", "Yes"]),
    ],
)
def test_dollar_signs_of_money_and_of_formulas(solution: str, steps: list[str]) -> None:
    assert solution_steps(solution) == steps
