"""Exemplars and answers in Minerva's words and in ours."""

import pytest

from rlhf_e2h.prompts import FORMATS, MINERVA, SECTIONS, few_shot

SOLUTION = "2 + 2 = 4\n\n4 / 2 = 2\n\n# Answer\n\n2"
# Sun et al. 2024, appendix R, after Lewkowycz et al. 2022
WRITTEN = "2 + 2 = 4\n\n4 / 2 = 2\n\nFinal Answer: The final answer is $2$. I hope it is correct."


def test_exemplar_is_the_papers_text():
    assert few_shot([("2 + 2, halved?", SOLUTION)], "\n\n", MINERVA) == (
        f"Problem:\n2 + 2, halved?\n\nSolution:\n{WRITTEN}\n\n"
    )
    assert few_shot([("2?", SOLUTION)], "<eos>") == f"# Question\n\n2?\n\n# Solution\n\n{SOLUTION}<eos>"


def test_a_sampled_solution_comes_back_in_sections():
    # base models go on to a next problem in place of stopping
    runs_on = (
        WRITTEN + "\n\nProblem:\nAnother?\n\nSolution:\nFinal Answer: The final answer is $9$. I hope it is correct."
    )
    for text in (WRITTEN, runs_on):
        assert MINERVA.completed(text, False) == (SOLUTION, "2", True)


@pytest.mark.parametrize("text", ["2 + 2 = 4", "Final Answer: The final answer is $2$", "\n\nProblem:\n" + WRITTEN])
def test_no_closing_sentence_no_answer(text):
    assert MINERVA.completed(text, True)[1:] == (None, False)


def test_latex_answer_keeps_its_inside():
    text = "x\n\nFinal Answer: The final answer is $\\frac{1}{2}$. I hope it is correct."
    assert MINERVA.completed(text, True) == ("x\n\n# Answer\n\n\\frac{1}{2}", "\\frac{1}{2}", True)


def test_sections_are_as_before():
    assert SECTIONS.completed(SOLUTION, True) == (SOLUTION, "2", True)
    assert SECTIONS.completed(SOLUTION, False) == (SOLUTION, None, False)
    assert set(FORMATS) == {"sections", "minerva"}


def test_exemplar_without_answer_is_named():
    with pytest.raises(ValueError, match="no single '# Answer' section"):
        MINERVA.exemplar("2 + 2 = 4")
