"""Cartography: golden values of the public code's formulae, files of other trainers, selection, wrong labels."""

import json

import numpy as np
import pytest

from rlhf_e2h.studies.cartography import measures as cartography
from rlhf_e2h.studies.cartography.dynamics import read_dynamics, read_td_metrics, write_td_metrics
from rlhf_e2h.studies.cartography.wrong_labels import detect, f1, with_prior
from rlhf_e2h.training.dynamics import write_epoch
from rlhf_e2h.training.items import flips


def test_golden_confidence_variability_and_closeness():
    values = cartography.metrics([[0.2, 0.8, 0.6]], [[False, True, True]])
    assert values["confidence"][0] == pytest.approx(0.533333, abs=1e-6)
    assert values["variability"][0] == pytest.approx(0.249444, abs=1e-6)
    assert values["threshold_closeness"][0] == pytest.approx(0.248889, abs=1e-6)
    finite = cartography.metrics([[0.2, 0.8, 0.6]], [[False, True, True]], finite=True)
    assert finite["variability"][0] == pytest.approx(0.253294, abs=1e-6)
    four = cartography.metrics([[0.6, 0.4, 0.7, 0.3]], [[True, False, True, False]])
    assert four["confidence"][0] == pytest.approx(0.5, abs=1e-6)
    assert four["variability"][0] == pytest.approx(0.158114, abs=1e-6)


def test_golden_correctness_and_forgetfulness():
    right = [[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]]
    values = cartography.metrics(np.full((4, 4), 0.5), np.array(right, bool))
    assert values["correctness"].tolist() == [2, 0, 4, 2]
    assert values["forgetfulness"].tolist() == [2, 1000, 0, 1]


def test_gold_probability_is_the_softmax():
    # e^2 / (e^2 + e^1 + e^0) = 7.389056 / 11.107338
    assert cartography.gold_probabilities([[2.0, 1.0, 0.0], [1000.0, 0.0, 0.0]], [0, 1]) == pytest.approx(
        [0.665241, 0.0], abs=1e-6
    )


def test_selection_has_the_exact_size_and_share():
    rng = np.random.default_rng(0)
    variability, confidence = rng.random(1000), rng.random(1000)
    chosen = cartography.select("variability", variability, confidence, 0.29, easy_share=0.1)
    assert len(chosen) == len(set(chosen)) == 290  # .29 * 1000 is 289.99999999999994 in floating point
    head = set(np.argsort(-variability)[:261].tolist())
    assert head <= set(chosen)
    rest = sorted((i for i in range(1000) if i not in head), key=lambda i: -confidence[i])
    assert set(chosen) - head == set(rest[:29])


def test_selection_from_either_end():
    values = [0.1, 0.5, 0.3, 0.9, 0.7, 0.2, 0.4, 0.6, 0.8, 0.0]
    assert cartography.select("confidence", values, values, 0.2) == [0, 9]  # lowest confidence: hard to learn
    assert cartography.select("confidence", values, values, 0.2, ends="worst") == [3, 8]
    # of five, ceil(3.5) = 4 from the head and 1 from the tail
    assert cartography.select("confidence", values, values, 0.5, ends="both") == [0, 2, 3, 5, 9]


def test_regions_are_one_each():
    confidence, variability = [0.9, 0.6, 0.1, 0.5, 0.95, 0.05], [0.1, 0.4, 0.05, 0.5, 0.0, 0.0]
    easy, ambiguous, hard = cartography.REGIONS
    assert cartography.regions(confidence, variability) == [easy, ambiguous, hard, ambiguous, easy, hard]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cartography.select("loss", [1.0], [1.0], 0.5), "'loss' is not known"),
        (lambda: cartography.select("confidence", [1.0], [1.0], 0.5), "is none; raise it"),
        (lambda: cartography.select("confidence", [1.0], [1.0], 1.5), "fraction is 1.5"),
        (lambda: cartography.select("confidence", [1.0], [1.0], 1, easy_share=2), "easy_share is 2"),
        (lambda: cartography.metrics([[0.5]], [[True]], finite=True), "at least 2 epochs"),
        (lambda: cartography.metrics([[float("nan")]], [[True]]), "numbers in"),
        (lambda: cartography.metrics([[0.5, 0.5]], [[True]]), "examples x epochs"),
    ],
)
def test_mistakes_have_names(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _foreign(folder, epochs, field="logits_epoch_{}"):
    folder.mkdir(exist_ok=True)
    for number, rows in epochs.items():
        lines = [{"guid": g, field.format(number): logits, "gold": gold} for g, logits, gold in rows]
        (folder / f"dynamics_epoch_{number}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_reads_what_another_trainer_wrote(tmp_path):
    # three classes, epochs from 1, another order in the second file, numbers as guids
    _foreign(
        tmp_path / "training_dynamics",
        {1: [(7, [0, 1, 0], 1), (8, [1, 0, 0], 2)], 3: [(8, [0, 0, 9], 2), (7, [0, 2, 0], 1)]},
    )
    dynamics = read_dynamics(tmp_path)
    assert dynamics.guids == ["7", "8"]
    assert dynamics.right.tolist() == [[True, True], [False, True]]
    assert dynamics.probability[0, 0] == pytest.approx(np.e / (np.e + 2))
    assert read_dynamics(tmp_path, burn_out=1).right.shape == (2, 1)


def test_formats_make_the_round_trip(tmp_path):
    write_epoch(tmp_path / "training_dynamics", 0, ["a", "b"], [[0.0, 2.0], [0.0, -1.0]], [1, 0])
    write_epoch(tmp_path / "training_dynamics", 1, ["a", "b"], [[0.0, 3.0], [0.0, 1.0]], [1, 0])
    line = json.loads((tmp_path / "training_dynamics/dynamics_epoch_1.jsonl").read_text().splitlines()[0])
    assert line == {"guid": "a", "logits_epoch_1": [0.0, 3.0], "gold": 1}
    dynamics = read_dynamics(tmp_path)
    values = cartography.metrics(dynamics.probability, dynamics.right)
    write_td_metrics(tmp_path / "td_metrics.jsonl", dynamics.guids, values)
    guids, again = read_td_metrics(tmp_path)
    assert guids == ["a", "b"]
    assert all(np.array_equal(values[name], again[name]) for name in cartography.METRICS)
    row = json.loads((tmp_path / "td_metrics.jsonl").read_text().splitlines()[1])
    assert row["correctness"] == 1
    assert row["forgetfulness"] == 1
    assert isinstance(row["correctness"], int)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([("a", [0, 1], 1)], "guid 'b' is missing from epoch 1"),
        ([("a", [0, 1], 1), ("b", [0, 1], 0), ("c", [0, 1], 0)], "guid 'c' is in epoch 1 but not in epoch 0"),
        ([("a", [0, 1], 1), ("b", [0, 1], 1)], "'b' has gold 1"),
        ([("a", [0, 1], 1), ("a", [0, 1], 1)], "'a' occurs twice"),
        ([("a", [0], 0), ("b", [0, 1], 0)], "at least two classes"),
        ([("a", [0, float("nan")], 1), ("b", [0, 1], 0)], "finite numbers"),
        ([("a", [0, 1], 2), ("b", [0, 1], 0)], "2 classes; count them from 0"),
    ],
)
def test_broken_dynamics_are_named(tmp_path, second, message):
    _foreign(tmp_path, {0: [("a", [0, 1], 1), ("b", [1, 0], 0)], 1: second})
    with pytest.raises(ValueError, match=message):
        read_dynamics(tmp_path)


def test_no_dynamics_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no dynamics_epoch_N\.jsonl"):
        read_dynamics(tmp_path)


def _toy(seed, flipped):
    """Dynamics of a model that learns clean labels and doubts wrong ones: (confidence, variability) of 4000 items."""
    rng = np.random.default_rng(seed)
    right = np.clip(rng.beta(12, 2, 4000), 0, 1)
    confidence = np.where(flipped, 1 - right, right)
    return np.stack([confidence, rng.gamma(2, 0.03, 4000)], axis=1)


def test_planted_flips_are_found_in_a_toy_set():
    planted = np.zeros(4000, bool)
    planted[flips(range(4000), 0.05, 4000, seed=0)] = True
    injected = np.zeros(4000, bool)
    injected[flips(np.flatnonzero(~planted), 0.02, 4000, seed=1)] = True
    known = _toy(1, planted ^ injected)
    searched = _toy(0, planted)
    trusted = searched[:, 0] >= 0.5
    found = detect(known, injected, searched, trusted, seed=0)
    score = f1(found.probability >= 0.5, planted)
    assert planted.sum() == 200
    assert score["f1"] >= 0.9
    assert found.prior == pytest.approx(0.05, abs=0.01)
    assert np.array_equal(detect(known, injected, searched, trusted, seed=0).probability, found.probability)
    # wrong labels that stand for right ones make the classifier unsure
    assert f1(detect(known, injected, searched).probability >= 0.5, planted)["f1"] < score["f1"]


def test_the_prior_of_two_separate_groups_is_their_share():
    assert with_prior([1 - 1e-9] * 3 + [1e-9] * 97).prior == pytest.approx(0.03, abs=1e-6)


def test_one_class_is_not_enough():
    with pytest.raises(ValueError, match="0 of 3 labels are flipped"):
        detect([[0, 0]] * 3, [False] * 3, [[0, 0]])
    assert f1([False], [False]) == {"precision": None, "recall": None, "f1": None}
    with pytest.raises(ValueError, match="only 1 are candidates"):
        flips([3], 0.5, 10, 0)
