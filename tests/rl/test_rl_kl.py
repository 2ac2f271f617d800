import math

import pytest
import torch

from rlhf_e2h.rl.kl import AdaptiveKL, FixedKL, kl_controller, kl_estimate


def test_estimators_by_hand():
    # policy p = .5, reference q = .25: u = ln(p/q) = ln 2 = .6931472
    # k1 = u, k2 = u^2/2 = .2402265, k3 = e^-u - 1 + u = .5 - 1 + .6931472
    # the other way round u = -ln 2: k3 = 2 - 1 - .6931472
    logprobs = torch.tensor([[math.log(0.5), math.log(0.25)]])
    reference = torch.tensor([[math.log(0.25), math.log(0.5)]])
    expected = {
        "k1": [0.6931472, -0.6931472],
        "k2": [0.2402265, 0.2402265],
        "k3": [0.1931472, 0.3068528],
        "k1_clamped": [0.6931472, 0.0],
    }
    for kind, values in expected.items():
        torch.testing.assert_close(kl_estimate(logprobs, reference, kind), torch.tensor([values]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_k1_and_k3_are_unbiased(kind):
    # exact expectation over p = (.5, .3, .2) against q = (.2, .5, .3):
    # .5 ln 2.5 + .3 ln .6 + .2 ln(2/3) = .4581454 - .1532477 - .0810930 = .2238047
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.5, 0.3]])
    mean = (p * kl_estimate(p.log(), q.log(), kind)).sum().item()
    assert mean == pytest.approx(0.2238047, abs=1e-6)


def test_clamped_k1_is_biased_which_is_why_it_is_not_the_default():
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.5, 0.3]])
    assert (p * kl_estimate(p.log(), q.log(), "k1_clamped")).sum().item() == pytest.approx(0.4581454, abs=1e-6)


def test_unknown_estimator_names_the_known_ones():
    with pytest.raises(ValueError, match=r"'k9' is unknown; use one of k1, k2, k3"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k9")


def test_adaptive_controller_by_hand():
    # error = clip(9/6 - 1, +-.2) = .2; factor 1 + .2 * 100 / 1000 = 1.02
    controller = AdaptiveKL(0.5, target=6.0, horizon=1000.0)
    controller.update(9.0, 100)
    assert controller.coefficient == pytest.approx(0.51)
    # error = 5.4/6 - 1 = -.1; factor .99
    controller.update(5.4, 100)
    assert controller.coefficient == pytest.approx(0.5049)


def test_controller_by_target():
    fixed = kl_controller(0.1, None, 1000.0)
    fixed.update(100.0, 1000)
    assert fixed == FixedKL(0.1)
    assert isinstance(kl_controller(0.1, 6.0, 1000.0), AdaptiveKL)
