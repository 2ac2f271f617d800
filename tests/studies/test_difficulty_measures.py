"""Measures of difficulty against hand counts, a written-out likelihood, and worlds whose codelength is known."""

import math

import numpy as np
import pytest
import torch

from rlhf_e2h.studies.gap.difficulty_measures import counted, likelihoods, spearman, with_groups
from rlhf_e2h.studies.gap.mdl import learning_curve_mdl, prequential_bits
from rlhf_e2h.training.models import ModelShape, new_llama

SOLUTION = "p=4+3=2\n\nq=2*4=3\n\n# Answer\n\n3"


def test_counts_by_hand():
    row = counted("p=4+3; q=p*4; q=?", "3", SOLUTION)
    assert row == {
        "question_num_words": 3, "answer_num_chars": 1, "answer_num_words": 1, "reasoning_num_words": 2, "num_steps": 2,
    }  # fmt: skip


def test_what_needs_a_solution_is_null_without_one():
    row = counted("p=4+3;p=?", None, None)
    assert row["question_num_words"] == 1 and row["num_steps"] is None and row["answer_num_chars"] is None


def test_parts_sum_to_the_log_likelihood_of_the_whole():
    model, tokenizer = new_llama(ModelShape(16, 1, 16, 1, 256), "procedural", 0)
    row = likelihoods(model, tokenizer, "p=4+3;p=?", SOLUTION)
    text = "# Question\n\np=4+3;p=?\n\n# Solution\n\n" + SOLUTION
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        mean = model(input_ids=ids, labels=ids).loss.item()  # transformers' own mean over all but the first token
    skipped = likelihoods(model, tokenizer, "p=4+3;p=?", None)
    marks = mean * (ids.shape[1] - 1) - row["question_nll"] - row["reasoning_nll"] - row["answer_nll"]
    assert row["question_nll"] == pytest.approx(skipped["question_nll"], rel=1e-4)
    assert marks > 0 and row["answer_nll"] > 0 and skipped["answer_nll"] is None
    # an untrained model is nearly uniform: ln(vocabulary) a token; the question has 9 characters, a token each at most
    assert row["question_nll"] <= 9 * math.log(len(tokenizer)) * 1.2


def test_groups_and_reasons():
    rows = [{"a": float(i), "b": 1.0} for i in range(10)]
    reasons = with_groups(rows, ["a", "b"])
    assert [row["a_group"] for row in rows] == ["easy"] * 3 + ["medium"] * 4 + ["hard"] * 3
    assert "overlap" in reasons["b"] and "b_group" not in rows[0]


def test_spearman_by_hand_and_nulls():
    rows = [{"a": a, "b": b, "c": 1.0} for a, b in [(1, 1), (2, 3), (3, 2), (4, 4)]]
    found = {(r["measure"], r["with"]): r for r in spearman(rows, ["a", "b", "c"])}
    assert found["a", "b"]["rho"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # d^2 = 0 1 1 0
    assert found["a", "c"]["rho"] is None and "same for all" in found["a", "c"]["null_because"]
    assert spearman(rows[:2], ["a", "b"])[1]["null_because"] == "2 problems have both measures"


def world(problems=60, k=4, easy=30, seed=0):
    """Solutions of the first `easy` problems are told apart by their feature, those of the others by nothing."""
    rng = np.random.default_rng(seed)
    problem_N = np.repeat(np.arange(problems), k)
    labels_N = rng.integers(2, size=problems * k).astype(float)
    x_ND = rng.normal(size=(problems * k, 3)) * 0.1
    x_ND[:, 0] += np.where(problem_N < easy, 4 * labels_N - 2, 0)
    return x_ND, labels_N, problem_N


def test_learnable_problems_have_the_lower_mdl():
    few, many = (learning_curve_mdl(*world(), sizes=(n,), repeats=2) for n in (5, 20))
    assert many[:30].mean() < 0.15 and many[30:].mean() == pytest.approx(0.5, abs=0.08)
    assert few[:30].mean() > many[:30].mean()  # five problems teach less than twenty
    both = learning_curve_mdl(*world(), sizes=(5, 20), repeats=2)
    np.testing.assert_allclose(both, (few + many) / 2)  # the mean over the learning curve


def test_labels_without_signal_cost_about_a_bit_each_and_learnable_ones_less():
    bits = prequential_bits(*world(), sizes=(5, 20), repeats=4)
    assert bits[30:].mean() == pytest.approx(4.0, abs=0.9) and bits[:30].mean() < 1.5


def test_first_block_costs_one_bit_a_label():
    x, y, problem = world(10, 2, 5)
    # no size below 10: everything is the first block
    np.testing.assert_allclose(prequential_bits(x, y, problem, sizes=(50,), repeats=2), 2.0)


def test_one_class_so_far_uses_the_rule_of_succession():
    x = np.zeros((4, 1))
    # two blocks of one problem each, two right solutions a problem: 1 bit each, then P = 3/4 each
    bits = prequential_bits(x, np.ones(4), np.array([0, 0, 1, 1]), sizes=(1,), repeats=1)
    assert sorted(bits.tolist()) == pytest.approx([-2 * math.log2(0.75), 2.0])


def test_too_few_problems_are_named():
    x, y, problem = world(8, 2, 4)
    with pytest.raises(ValueError, match="none of the sizes"):
        learning_curve_mdl(x, y, problem, sizes=(5,))
