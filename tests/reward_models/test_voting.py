"""Hand-made banks with answers that can be read off, and pass@n against enumeration of all subsets."""

import itertools
import time

import numpy as np
import pytest

from reward_models import voting


def test_majority_and_ties():
    classes = [[1, 2, 2, 1], [3, 4, 4, 4], [-1, -1, -1, 5], [-1, -1, -1, -1]]
    # row 0: tie, the answer seen first wins; row 2: three missing answers lose against one; row 3: nothing to choose
    assert voting.majority(classes).tolist() == [0, 1, 3, -1]


def test_weighted_vote_sums_and_signs():
    classes = [[1, 2, 2], [1, 2, 2], [7, 8, -1]]
    scores = [[0.9, 0.5, 0.5], [0.9, 0.4, 0.4], [-3.0, -2.0, 9.0]]
    # 0.9 < 1.0; 0.9 > 0.8; logits: -2 > -3, and the missing answer's 9 is not counted
    assert voting.weighted_vote(classes, scores).tolist() == [1, 0, 1]


def test_weighted_vote_tie_is_not_decided_by_rounding():
    # 0.1 + 0.2 is 0.30000000000000004 in float64, larger than 0.3; by value they tie, so the first answer wins
    assert voting.weighted_vote([[1, 2, 2]], [[0.3, 0.1, 0.2]]).tolist() == [0]


def test_weighted_vote_keeps_tiny_products_apart():
    assert voting.weighted_vote([[1, 2]], [[1e-18, 2e-18]]).tolist() == [1]


def test_best_of_n():
    scores = [[0.1, 0.9, 0.9], [-5.0, -1.0, -2.0]]
    assert voting.best_of_n(scores).tolist() == [1, 1]
    assert voting.best_of_n(scores, [[0, -1, 3], [-1, -1, -1]]).tolist() == [2, -1]


def test_picked_correct_counts_no_answer_as_wrong():
    assert voting.picked_correct([-1, 1], [[True, True], [False, True]]).tolist() == [False, True]


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_pass_at_n_is_the_share_of_subsets_with_a_right_sample(n):
    bank = np.array([[1, 0, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], bool)
    subsets = list(itertools.combinations(range(5), n))
    expected = [np.mean([row[list(subset)].any() for subset in subsets]) for row in bank]
    assert voting.pass_at_n(bank, n) == pytest.approx(expected)


def test_curve_at_full_size_needs_no_draws_and_matches_by_hand():
    classes = np.array([[1, 1, 2, 3], [1, 2, 2, 2]])
    correct = np.array([[0, 0, 1, 0], [1, 0, 0, 0]], bool)
    scores = np.array([[0.1, 0.1, 0.9, 0.2], [0.7, 0.2, 0.1, 0.3]])
    result = voting.curve(classes, correct, scores, sizes=[1, 4])
    assert result["majority"][4].tolist() == [0, 0]
    assert result["weighted_vote"][4].tolist() == [1, 1]
    assert result["best_of_n"][4].tolist() == [1, 1]
    assert result["pass_at_n"][4].tolist() == [1, 1]
    assert result["mean"][4].tolist() == [0.25, 0.25]
    assert result["pass_at_n"][1].tolist() == [0.25, 0.25]


def test_methods_see_the_same_subsets():
    """With one class and constant scores every method picks the first sample: equal subsets, equal curves."""
    rng = np.random.default_rng(0)
    correct = rng.random((50, 16)) < 0.5
    classes = np.zeros((50, 16), int)
    result = voting.curve(classes, correct, np.ones((50, 16)), draws=4, seed=3)
    for n in (1, 2, 4, 8, 16):
        assert result["majority"][n].tolist() == result["best_of_n"][n].tolist() == result["weighted_vote"][n].tolist()
    again = voting.curve(classes, correct, np.ones((50, 16)), draws=4, seed=3)
    other = voting.curve(classes, correct, np.ones((50, 16)), draws=4, seed=4)
    assert again["majority"][4].tolist() == result["majority"][4].tolist() != other["majority"][4].tolist()


def test_subsampled_mean_is_unbiased():
    """best-of-1 over many draws estimates the share of right samples: 0.25 here."""
    correct = np.tile([True, False, False, False], (200, 1))
    result = voting.curve(np.ones((200, 4), int), correct, np.zeros((200, 4)), sizes=[1], draws=64)
    assert result["best_of_n"][1].mean() == pytest.approx(0.25, abs=0.02)  # standard error 0.004


def test_curve_is_fast():
    rng = np.random.default_rng(0)
    classes, scores = rng.integers(-1, 6, (500, 16)), rng.random((500, 16))
    started = time.process_time()
    result = voting.curve(classes, classes == 2, scores, draws=32)
    assert time.process_time() - started < 2
    assert sorted(result["majority"]) == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: voting.best_of_n([[0.1, float("nan")]]), "problem 0, sample 1 is NaN"),
        (lambda: voting.majority([[0.5]]), "integers"),
        (lambda: voting.weighted_vote([[1, 2]], [[0.1]]), "expected"),
        (lambda: voting.pass_at_n([[True]], 2), "between 1 and K"),
        (lambda: voting.curve([[1]], [[True]], sizes=[2]), "between 1 and 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_answer_classes_by_strings_and_by_an_equality():
    answers = ["1/2", "0.5", None, "3", "0.5", "1/2"]
    assert voting.answer_classes(answers) == [0, 1, -1, 2, 1, 0]
    asked = []

    def same(a, b):
        asked.append((a, b))
        return eval_fraction(a) == eval_fraction(b)

    assert voting.answer_classes(answers, same) == [0, 0, -1, 1, 0, 0]
    assert asked == [("1/2", "0.5"), ("1/2", "3")]  # never twice, never about equal strings


def eval_fraction(text):
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)
