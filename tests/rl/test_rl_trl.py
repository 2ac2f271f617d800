"""Our functions on random numbers against TRL 1.12.0, the last release with PPO, which computed `trl_1_12.json`.

`benchmarks/peers/trl_numerics.py` makes that file, in an environment of its own.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from rlhf_e2h.rl.advantages import gae, whiten
from rlhf_e2h.rl.kl import kl_estimate
from rlhf_e2h.rl.losses import policy_loss, value_loss

CASES = json.loads((Path(__file__).parent / "trl_1_12.json").read_text())["cases"]


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=["gamma 1, lambda 1", "gamma .98, lambda .9"])
def test_kl_advantages_whitening_and_losses_are_those_of_trl(case):
    given, found = ({name: torch.tensor(value) for name, value in case[part].items()} for part in ("given", "found"))
    count = sum(case["lengths"])
    mask = torch.arange(max(case["lengths"])) < torch.tensor(case["lengths"]).unsqueeze(1)
    for estimator in ("k1", "k3"):
        ours = kl_estimate(given["logprobs"], given["ref_logprobs"], estimator)
        close(ours[mask], found[estimator][mask])
    advantages, returns = gae(given["rewards"], given["values"], mask, case["gamma"], case["lam"])
    close(advantages, found["advantages"])
    close(returns, found["returns"])
    # TRL divides by the standard deviation of a sample (n - 1), we by that of the batch (n)
    close(whiten(advantages, mask) * math.sqrt((count - 1) / count), found["whitened"])
    policy = policy_loss(given["new_logprobs"], given["logprobs"], found["whitened"], mask, case["clip"])
    close(policy.loss, found["pg_loss"])
    value = value_loss(given["vpred"], given["values"], found["returns"], mask, case["clip"])
    close(value.loss, found["vf_loss"])
    close(value.clip_fraction, found["vf_clipfrac"])
    assert 0 < value.clip_fraction < 1
