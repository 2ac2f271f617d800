"""Losses of weak-to-strong training against the golden vector of the reference and hand calculations."""

import math

import pytest
import torch

from rlhf_e2h.studies.weak_to_strong import losses

F_B = torch.tensor([0.9, 0.6, 0.45, 0.2], dtype=torch.float64)
LOGITS_B = torch.logit(F_B).float().requires_grad_(True)
LABELS_B = torch.tensor([0.7, 0.8, 0.3, 0.4])
EMPTY = torch.empty(0)


def history():
    return losses.extended(EMPTY, LOGITS_B)


def test_golden_vector():
    c = losses.coefficient(100)
    assert losses.xent(LOGITS_B, LABELS_B).item() == pytest.approx(0.698037, abs=1e-6)
    assert losses.logconf(LOGITS_B, LABELS_B, c, history()).item() == pytest.approx(0.528664, abs=1e-6)
    assert losses.entropy(LOGITS_B, LABELS_B, c).item() == pytest.approx(0.622348, abs=1e-6)
    assert losses.window(LOGITS_B, LABELS_B, 0.15).item() == pytest.approx(0.312489, abs=1e-6)


def test_golden_threshold_and_classes():
    # prior = mean(.7, .8, .3, .4) = .55; p0 = .1, .4, .55, .8; position 3 * .55 = 1.65: .4 + .65 * .15 = .4975
    t = losses.threshold(history(), LABELS_B)
    assert t.item() == pytest.approx(0.4975, abs=1e-6)
    assert (t > (1 - F_B)).tolist() == [True, True, False, False]


@pytest.mark.parametrize(("step", "expected"), [(0, 0.0), (50, 0.25), (100, 0.5), (200, 0.5)])
def test_coefficient_rises_over_the_warm_up(step, expected):
    assert losses.coefficient(step) == pytest.approx(expected)


def test_no_warm_up_means_full_weight():
    assert losses.coefficient(0, warmup=0) == 0.5


def test_history_keeps_the_last_32_and_drops_the_oldest():
    kept = EMPTY
    for batch in range(10):
        kept = losses.extended(kept, torch.logit(torch.full((8,), batch / 20 + 0.01)))
    # batches 6 to 9 of eight are left; p_0 = 1 - f
    assert len(kept) == 32
    assert kept[0].item() == pytest.approx(1 - 0.31, abs=1e-5) and kept[-1].item() == pytest.approx(1 - 0.46, abs=1e-5)


def test_threshold_follows_the_predictions():
    low, high = torch.full((32,), 0.2), torch.full((32,), 0.7)
    assert losses.threshold(low, LABELS_B).item() == pytest.approx(0.2)
    assert losses.threshold(high, LABELS_B).item() == pytest.approx(0.7)


def test_single_example_uses_the_median():
    assert losses.threshold(torch.tensor([0.1, 0.2, 0.9]), torch.tensor([0.99])).item() == pytest.approx(0.2)


def test_kl_is_zero_at_agreement_and_hand_value():
    y = torch.tensor([0.3, 1.0])
    assert losses.kl(torch.logit(y, eps=1e-7), y).item() == pytest.approx(0, abs=1e-6)
    # KL(.75 || .5) = .75 ln 1.5 + .25 ln .5
    value = losses.kl(torch.zeros(1), torch.tensor([0.75])).item()
    assert value == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


def test_gradient_of_xent_is_prediction_minus_target():
    grad = torch.autograd.grad(losses.xent(LOGITS_B, LABELS_B), LOGITS_B)[0]
    torch.testing.assert_close(grad, (F_B.float() - LABELS_B) / 4)


def test_own_predictions_carry_no_gradient():
    # the target of `entropy` at c = 1/2 is (y + f) / 2, so the gradient is (f - y) / 2 / B and no more
    grad = torch.autograd.grad(losses.entropy(LOGITS_B, LABELS_B, 0.5), LOGITS_B)[0]
    torch.testing.assert_close(grad, (F_B.float() - LABELS_B) / 8)


def test_balanced_labels_have_mean_log_odds_zero():
    assert torch.logit(losses.balanced(LABELS_B)).mean().item() == pytest.approx(0, abs=1e-6)


def test_midweak_radius():
    assert losses.midweak_radius(torch.tensor([0.5, 0.6, 0.1])) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(2), torch.tensor([0.5, 1.2]), "range over [0.5, 1.2]"),
        (torch.zeros(2), torch.tensor([0.5, math.nan]), "probabilities"),
        (torch.zeros(2, 1), torch.zeros(2, 1), "shape (2, 1)"),
        (torch.zeros(0), torch.zeros(0), "B >= 1"),
    ],
)
def test_bad_input_is_named(logits, labels, words):
    with pytest.raises(ValueError, match=words.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)")):
        losses.xent(logits, labels)
