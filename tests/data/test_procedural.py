import numpy as np
import pytest

from rlhf_e2h.data.procedural import (
    World,
    fact_value,
    make_problem,
    make_problems,
    marked_text,
    solve,
    step_labels,
    world_text,
)
from rlhf_e2h.data.tokenizers import byte_tokenizer, procedural_tokenizer
from rlhf_e2h.prompts import SECTIONS

PROBLEM = "p=4+3;q=p*4;r=q+1;r=?"


def test_solution_by_hand():
    # 4+3=7=2, 2*4=8=3, 3+1=4 modulo 5
    assert solve(PROBLEM) == (["p=4+3=2", "q=2*4=3", "r=3+1=4"], "4")


@pytest.mark.parametrize(
    ("steps", "labels"),
    [
        (["p=4+3=2", "q=2*4=3", "r=3+1=4", "# Answer\n\n4"], [1, 1, 1, 1]),
        (["p=4+3=1", "q=1*4=4", "r=4+1=0", "# Answer\n\n0"], [0, 1, 1, 1]),  # builds rightly on a mistake
        (["p=4+3=2", "q=4*4=1", "r=1+1=2", "# Answer\n\n2"], [1, 0, 1, 1]),  # operand not carried over
        (["p=4+3=2", "r=2+1=3", "# Answer\n\n3"], [1, 0, 0]),  # left out q; the answer comes too early
        (["p=4+3=2", "q=2*4=3", "r=3+1=4", "r=3+1=4", "# Answer\n\n4"], [1, 1, 1, 0, 0]),  # one step too many
        (["p=4+3=2", "q=2*4=3", "r=3+1=4", "# Answer\n\n2"], [1, 1, 1, 0]),
        (["", "nonsense", "# Answer\n\n"], [0, 0, 0]),
        (["p=4+3=2", "q=2+4=1", "r=1+1=2", "# Answer\n\n2"], [1, 0, 1, 1]),  # another operator than asked
    ],
)
def test_step_labels(steps, labels):
    assert step_labels(PROBLEM, steps) == labels


def test_levels_have_their_number_of_operations():
    rng = np.random.default_rng(0)
    for level, operations in {1: {1, 2}, 2: {3}, 3: {4}, 4: {6}, 5: {8}}.items():
        assert {make_problem(level, rng).count(";") for _ in range(50)} == operations


def test_problems_are_distinct_reproducible_and_exactly_solved():
    first = make_problems({1: 50, 5: 50}, seed=3)
    assert first == make_problems({1: 50, 5: 50}, seed=3)
    assert len({row["problem"] for row in first}) == 100
    others = make_problems({1: 50}, seed=3, exclude={row["problem"] for row in first})
    assert not {row["problem"] for row in others} & {row["problem"] for row in first}
    for row in first:
        assert all(step_labels(row["problem"], SECTIONS.split_steps(row["solution"])))


def test_the_world_is_wrong_as_often_as_it_says():
    world = World(misconceived_share=0.25, wrong_easy=0.4, wrong_hard=0.9, slip=0.0)
    assert len(world.misconceptions) == 10  # a quarter of 2 operators x 5 x 4 facts
    assert all(fact_value(*fact) != value for fact, value in world.misconceptions.items())
    for level, rate in ((3, 0.4), (5, 0.9)):
        rng, wrong, met = np.random.default_rng(0), 0, 0
        for _ in range(400):
            _, steps, _ = world_text(rng, world, level)
            for step in steps:
                left, operator, right, value = int(step[2]), step[3], int(step[4]), int(step[6])
                met += (left, operator, right) in world.misconceptions
                wrong += value != fact_value(left, operator, right)
        assert wrong / met == pytest.approx(rate, abs=0.05)


def test_tokenizers_round_trip():
    text = SECTIONS.prompt(PROBLEM) + "p=4+3=2\n\n# Answer\n\n1"
    ids = procedural_tokenizer()(text)["input_ids"]
    assert procedural_tokenizer().decode(ids) == text
    assert procedural_tokenizer().unk_token_id not in ids
    any_text = "Let \\[x² ≥ 1\\] ✓\n\n漢字"
    assert byte_tokenizer().decode(byte_tokenizer()(any_text)["input_ids"]) == any_text


def test_an_expression_that_a_step_works_out_is_one_token():
    pieces = procedural_tokenizer().tokenize("p=4+3;q=p*4;q=?\n\nq=2*4=3\n\n# Answer\n\n3")
    assert pieces[:6] == ["p", "=", "4", "+", "3", ";"]  # a definition is not a step
    assert pieces[15:] == ["\n\n", "q", "=", "2*4=", "3", "\n\n", "# Answer", "\n\n", "3"]


def test_marks_are_what_the_world_believes():
    """A reader marks a step `ok` if its result is the believed one: right or, where the world is wrong, wrong."""
    world = World(misconceived_share=0.25, wrong_easy=1.0, wrong_hard=1.0, slip=0.0)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        _, steps = marked_text(rng, world, 3)
        for step in steps:
            fact, value, mark = (int(step[2]), step[3], int(step[4])), int(step[6]), step[7:]
            believed = world.misconceptions.get(fact, fact_value(*fact))
            assert mark == (" ok" if value == believed else " no")
            seen.add((mark, fact in world.misconceptions))
    # where the world is always wrong, writer and reader agree: no misconceived fact is ever marked `no`
    assert seen == {(" ok", False), (" no", False), (" ok", True)}
