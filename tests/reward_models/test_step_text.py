"""One rule for steps: the policy's format and the reward model's contract cut every text alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_models import readout, step_text
from reward_models.contract import StepContract
from rlhf_e2h.prompts import SECTIONS

CONTRACT = StepContract("prm")
PARTS = ["\n", "\n\n", "# Answer", "# Answer:", "# Answers vary", " ", "5", "so x # Answer", "\t", "## Answer"]


@given(st.lists(st.sampled_from(PARTS) | st.text(max_size=4), max_size=12).map("".join))
def test_policy_and_reward_model_cut_alike_and_lose_nothing(text):
    steps = SECTIONS.split_steps(text)
    assert steps == readout.split_steps(CONTRACT, text)
    assert "\n\n".join(steps) == text
    assert [text[end - len(step) : end] for step, end in zip(steps, SECTIONS.step_ends(text), strict=True)] == steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("x # Answer foo\n\n# Answer\n\n5", ["x # Answer foo", "# Answer\n\n5"]),
        ("# Answers vary\n\nb\n\n# Answer\n\n5", ["# Answers vary", "b", "# Answer\n\n5"]),
        ("a\n\n# Answer: 12\n\nchecked", ["a", "# Answer: 12\n\nchecked"]),
        ("a\n\n# Answer \n\n5", ["a", "# Answer \n\n5"]),
        ("a\n\n# Answer", ["a", "# Answer"]),
        ("a\n\n# Answer 5\n\nb", ["a", "# Answer 5", "b"]),  # not alone on its line
        ("a\n\n\n# Answer\n\n5", ["a", "\n# Answer\n\n5"]),
        ("a\n# Answer\n\n5", ["a\n# Answer", "5"]),  # a line of a step is not a step
    ],
)
def test_the_answer_section_opens_where_a_step_begins_with_the_mark_alone(text, steps):
    assert SECTIONS.split_steps(text) == steps == readout.split_steps(CONTRACT, text)


def test_without_separator_a_text_is_one_step():
    assert step_text.split_steps("a\n\nb", "") == ["a\n\nb"]


def test_newlines_of_other_systems():
    assert step_text.normalise_newlines("a\r\n\r\nb\rc\n") == "a\n\nb\nc\n"
    assert SECTIONS.split_steps(step_text.normalise_newlines("a\r\n\r\n# Answer\r\n\r\n5")) == ["a", "# Answer\n\n5"]


def test_answer_sections_inside_a_completion_of_people():
    """PRM800K rates a last step together with its answer; a mark inside a sentence opens no section."""
    assert step_text.cut_answer("So 5.\n\n# Answer\n\n5", "# Answer") == ("So 5.\n\n", "# Answer\n\n5")
    assert step_text.cut_answer("# Answers vary, so # Answer is", "# Answer") == (
        "# Answers vary, so # Answer is",
        None,
    )
