from types import SimpleNamespace

import pytest
import torch

from rlhf_e2h.models import LoraSettings
from rlhf_e2h.rl.actor_critic import ActorCritic, RolloutBatch
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Reward
from rlhf_e2h.rl.sharding import divide
from rlhf_e2h.rl.share_base import share_base, trained_parameters

PROMPTS = [{"prompt": f"# Question\n\n{i}+1=?\n\n# Solution\n\n"} for i in range(5)]


def test_policy_and_value_learn_apart_and_the_base_stays(tiny, accelerator):
    base, _, tokenizer = tiny
    policy, value = share_base(base, LoraSettings(rank=4))
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if not p.requires_grad}
    adapters = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
    assert any(".value_adapter." in n for n in adapters) and any(".default." in n for n in adapters)
    history = []
    settings = PPOSettings(
        steps=8, rollouts=32, minibatches=2, micro_batch=16, max_new_tokens=8, learning_rate=2e-2, warmup_steps=0
    )
    train_ppo(
        policy,
        None,
        value,
        tokenizer,
        PROMPTS,
        lambda cs: [Reward(outcome=c.text.count("7") / max(len(c.text), 1)) for c in cs],
        settings,
        accelerator,
        lambda step, metrics, rollouts: history.append(metrics),
    )
    after = dict(policy.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in frozen.items())
    for part in (".default.", ".value_adapter."):
        assert any(not torch.equal(p, after[n]) for n, p in adapters.items() if part in n), part
    assert value.score.weight.abs().sum() > 0
    assert abs(history[0]["objective/kl"]) < 1e-5  # the reference is the base without adapters
    assert history[-1]["objective/kl"] > 1e-3


def test_policy_loss_does_not_reach_the_value_adapter(tiny):
    policy, value = share_base(tiny[0], LoraSettings(rank=4))
    module = ActorCritic(policy, value)
    torch.nn.init.ones_(value.score.weight)
    batch = RolloutBatch.from_lists([[5, 6, 7]], [[8, 9]], torch.device("cpu"))
    policy_parameters, value_parameters = trained_parameters(policy, value)
    assert not {id(p) for p in policy_parameters} & {id(p) for p in value_parameters}
    out = module(batch, torch.tensor([0]), 1.0)
    out.logprobs.sum().backward(retain_graph=True)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in policy_parameters)
    assert all(p.grad is None for p in value_parameters)
    for parameter in policy_parameters:
        parameter.grad = None
    out.values.sum().backward()
    assert all(p.grad is None for p in policy_parameters)
    assert all(p.grad is not None for p in value_parameters)


def test_fsdp_refuses_a_shared_base(tiny, monkeypatch):
    module = ActorCritic(*share_base(tiny[0], LoraSettings(rank=4)))
    divide(module, SimpleNamespace(num_processes=2))  # nobody asks for FSDP
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    divide(module, SimpleNamespace(num_processes=1))
    with pytest.raises(ValueError, match="share_base does not run under FSDP"):
        divide(module, SimpleNamespace(num_processes=2))
