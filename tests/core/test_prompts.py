import pytest

from rlhf_e2h.prompts import SECTIONS, few_shot


def test_prompt_and_solution_are_the_papers_text():
    # Sun et al. 2024, section 3: "# Question\n\n{q}\n\n# Solution\n\n", steps parted by a blank line, "# Answer\n\n{a}"
    assert SECTIONS.prompt("1+1?") == "# Question\n\n1+1?\n\n# Solution\n\n"
    assert SECTIONS.solution(["a", "b"], "2") == "a\n\nb\n\n# Answer\n\n2"


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a\n\nb\n\n# Answer\n\n2", ["a", "b", "# Answer\n\n2"]),
        ("# Answer\n\n2", ["# Answer\n\n2"]),
        ("a\n\n\n\nb", ["a", "", "b"]),  # an empty step is seen
        ("a # Answer b", ["a # Answer b"]),  # no section of its own
        ("", [""]),
        ("{q} \\frac{1}{2}\n\n# Answer\n\n\\frac{1}{2}", ["{q} \\frac{1}{2}", "# Answer\n\n\\frac{1}{2}"]),
    ],
)
def test_steps_and_their_ends(text, steps):
    assert SECTIONS.split_steps(text) == steps
    assert SECTIONS.separator.join(steps) == text
    for step, end in zip(steps, SECTIONS.step_ends(text), strict=True):
        assert text[end - len(step) : end] == step


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a\n\n# Answer\n\n 2 ", "2"),
        ("a", None),
        ("# Answer\n\n", None),
        ("# Answer\n\n1\n\n# Answer\n\n2", "2"),  # the last word counts, as in `e2h check`
        ("so \\boxed{7}", "7"),  # a right answer in another form is not lost
        ("x # Answer foo\n\n# Answer\n\n5", "5"),
        ("a\n\n# Answer: 12", "12"),
        ("<think># Answer\n\n9</think>\n\na\n\n# Answer\n\n5", "5"),
        ("a\n\n# Answer\n\n5\n\n# Question\n\n2+2?\n\n# Solution\n\n# Answer\n\n4", "5"),
        ("x # Answer foo\n\n# Answer\n\n5", "5"),  # a mark inside a sentence is not one
        ("# Answers vary\n\n# Answer\n\n5", "5"),
        ("a\n\n# Answer: 12", "12"),
    ],
)
def test_answer(text, answer):
    assert SECTIONS.answer(text) == answer


def test_braces_of_a_problem_are_not_read_as_slots():
    assert "{x}" in SECTIONS.prompt("{x}")


def test_few_shot_text():
    assert few_shot([("p", "s")], "<eos>") == "# Question\n\np\n\n# Solution\n\ns<eos>"
