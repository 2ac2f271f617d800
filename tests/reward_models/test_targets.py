"""Targets written out by hand for two steps 'ab' and 'c' behind the prompt 'pp'."""

import numpy as np
import pytest
import torch

from reward_models.encode import Encoded
from reward_models.records import Stepwise
from reward_models.targets import IGNORED, mix, record_weight, step_targets, token_targets, usable, weighted_bce_sum

X = IGNORED
# tokens: BOS, "pp", "a", "b", "--", "c", EOS
ROW = Encoded(ids=[0, 1, 2, 3, 4, 5, 6], positions=[3, 5], owners=[-1, -1, 0, 0, 0, 1, -1])
BOTH = Stepwise("pp", ["ab", "c"], [1, 1], 0)
OUTCOME = Stepwise("pp", ["ab", "c"], None, 1)
PARTIAL = Stepwise("pp", ["ab", "c"], [0, None], None)


@pytest.mark.parametrize(
    ("record", "kind", "loss_on", "expected"),
    [
        (BOTH, "orm", "every_token", [X, X, 0, 0, 0, 0, X]),
        (BOTH, "orm", "step_end", [X, X, X, X, X, 0, X]),
        (BOTH, "prm", "every_token", [X, X, 1, 1, 1, 1, X]),
        (BOTH, "prm", "step_end", [X, X, X, 1, X, 1, X]),
        (BOTH, "oprm", "every_token", [X, X, 1, 1, 1, 0, X]),
        (BOTH, "oprm", "step_end", [X, X, X, 1, X, 0, X]),
        (OUTCOME, "oprm", "every_token", [X, X, 1, 1, 1, 1, X]),
        (OUTCOME, "oprm", "step_end", [X, X, X, X, X, 1, X]),
        (PARTIAL, "prm", "every_token", [X, X, 0, 0, 0, X, X]),
        (PARTIAL, "oprm", "step_end", [X, X, X, 0, X, X, X]),
    ],
)
def test_token_targets(record, kind, loss_on, expected):
    assert token_targets(record, ROW, kind, loss_on).tolist() == expected


def test_straddling_token_keeps_the_label_of_the_step_it_reads():
    # one token "b--c" reads step 0 but its text ends in step 1
    row = Encoded(ids=[0, 1, 2, 3], positions=[2, 3], owners=[-1, 0, 1, 1])
    record = Stepwise("p", ["ab", "cd"], [1, 0])
    assert token_targets(record, row, "prm", "every_token").tolist() == [X, 1, 1, 0]


def test_empty_step_is_not_trained():
    assert step_targets(Stepwise("p", ["a", " "], [1, 0]), "prm") == [1, X]


def test_usable():
    assert [usable(BOTH, kind) for kind in ("orm", "prm", "oprm")] == [True, True, True]
    assert [usable(OUTCOME, kind) for kind in ("orm", "prm", "oprm")] == [True, False, True]
    assert [usable(PARTIAL, kind) for kind in ("orm", "prm", "oprm")] == [False, True, True]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_mix_reaches_the_share(share):
    records = [OUTCOME] * 100 + [BOTH] * 60
    chosen = mix(records, share, seed=0)
    outcome = sum(index < 100 for index in chosen)
    assert outcome / len(chosen) == pytest.approx(share, abs=0.02)
    assert outcome == 100 or len(chosen) - outcome == 60  # nothing is thrown away needlessly
    assert chosen == mix(records, share, seed=0) != mix(records, share, seed=1)


def test_mix_needs_both_kinds():
    with pytest.raises(ValueError, match="0 outcome and 3 step records"):
        mix([BOTH] * 3, 0.5, seed=0)


@pytest.mark.parametrize("weight", [float("nan"), -1.0, float("inf"), "2"])
def test_bad_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weight"):
        record_weight(Stepwise("p", ["a"], [1], extra={"weight": weight}))


def test_weighted_bce_by_hand():
    logits = torch.tensor([[0.0, 2.0, 9.0]])
    labels = torch.tensor([[1.0, 0.0, X]])
    weights = torch.tensor([[3.0, 0.5, 7.0]])
    # 3 * ln 2 + 0.5 * ln(1 + e^2) = 2.0794 + 0.5 * 2.1269
    assert weighted_bce_sum(logits, labels, weights).item() == pytest.approx(3 * np.log(2) + 0.5 * np.log1p(np.exp(2)))


def test_weighted_bce_does_not_broadcast():
    with pytest.raises(ValueError, match="shapes differ"):
        weighted_bce_sum(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 1))
