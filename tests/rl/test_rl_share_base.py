"""Adapters of one base against models of their own, merged."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from reward_models.adapters import CannotShareError, fingerprint, read_adapter, save_adapter
from reward_models.contract import StepContract
from reward_models.lora import with_lora
from reward_models.model import head_of, load_model, load_tokenizer
from reward_models.prepare import prepare_model
from reward_models.score import Scorer
from reward_models.settings import LoraSettings, TrainSettings
from rlhf_e2h.parallel.sharding import divide
from rlhf_e2h.rl.actor_critic import ActorCritic, RolloutBatch
from rlhf_e2h.rl.adapter_switch import Active, adapted_layers, checkpoint_gradients
from rlhf_e2h.rl.engine_settings import plain_weights
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Reward
from rlhf_e2h.rl.share_base import (
    POLICY,
    VALUE,
    as_reference,
    keep_policy_adapter,
    share_base,
    share_reward,
    trained_parameters,
)
from rlhf_e2h.training.models import save_policy

PROMPTS = [{"prompt": f"# Question\n\n{i}+1=?\n\n# Solution\n\n"} for i in range(5)]
IDS = torch.arange(5, 29).view(2, 12)


def randomise(model, what, seed, std=0.3):
    """An adapter adds nothing before it has been trained."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if what in name:
            torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model


@pytest.fixture
def saved(tiny, tmp_path):
    """Folders: base, sft (LoRA of rank 4, alpha 16) and prm (rank 2, alpha 32) on it, as training writes them."""
    base, _, tokenizer = tiny
    save_policy(base, tokenizer, tmp_path / "base")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    save_policy(randomise(with_lora(loaded, LoraSettings(4, 16)), "lora_B", 1), tokenizer, tmp_path / "sft")
    prm = prepare_model(tmp_path / "base", StepContract("prm"), TrainSettings(lora=LoraSettings(2, 32)))
    randomise(prm, "lora_B", 2, std=0.1)
    randomise(prm, "score.modules_to_save.default.weight", 3)
    save_adapter(prm, tmp_path / "prm")
    merged = prm.merge_and_unload()
    merged.save_pretrained(tmp_path / "prm")
    tokenizer.save_pretrained(tmp_path / "prm")
    assert head_of(merged).weight.abs().sum() > 0
    return tmp_path


def shared(saved, rank=4, alpha=16, start=True, head_only=False):
    base = AutoModelForCausalLM.from_pretrained(saved / "base")
    adapter = read_adapter(saved / "sft") if start else None
    return share_base(base, LoraSettings(rank, alpha), adapter, head_only)


@pytest.mark.parametrize("rank", [0, 4])
def test_policy_and_value_learn_apart_and_the_base_stays(saved, accelerator, rank):
    """On a base that is the reference itself, and on one whose reference is a frozen adapter."""
    tokenizer = load_tokenizer(saved / "base")
    policy, value = shared(saved, start=bool(rank))
    scorer = Scorer(share_reward(policy, "reward_adapter", read_adapter(saved / "prm")), tokenizer, StepContract("prm"))
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if not p.requires_grad}
    adapters = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
    assert any(".value_adapter." in n for n in adapters) and any(".default." in n for n in adapters)
    history = []
    settings = PPOSettings(
        steps=8,
        rollouts=32,
        num_mini_batches=2,
        per_device_train_batch_size=16,
        max_new_tokens=8,
        learning_rate=2e-2,
        warmup_steps=0,
    )

    def reward(completions):
        scorer.score("1+1=?", [["2"]])  # must not disturb what trains
        return [Reward(outcome=c.text.count("7") / max(len(c.text), 1)) for c in completions]

    def on_step(step, metrics, rollouts):
        history.append(metrics)

    train_ppo(policy, None, value, tokenizer, PROMPTS, reward, settings, accelerator, on_step)
    after = dict(policy.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in frozen.items())
    for part in (".default.", ".value_adapter."):
        assert any(not torch.equal(p, after[n]) for n, p in adapters.items() if part in n), part
    assert value.score.weight.abs().sum() > 0
    assert abs(history[0]["objective/kl"]) < 1e-5  # the policy starts as the reference
    assert history[-1]["objective/kl"] > 1e-3


def test_policy_loss_does_not_reach_the_value_adapter(tiny):
    policy, value = share_base(tiny[0], LoraSettings(r=4))
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


def test_policy_starts_as_its_adapter_which_stays_the_reference(saved):
    """A higher rank and another alpha than the saved adapter's make the same model; a lower rank cannot."""
    merged = AutoModelForCausalLM.from_pretrained(saved / "sft")(IDS).logits
    base = AutoModelForCausalLM.from_pretrained(saved / "base")(IDS).logits
    assert (merged - base).abs().max() > 0.1
    policy, value = shared(saved, rank=6, alpha=4)
    assert torch.allclose(policy(IDS).logits, merged, atol=1e-5)
    assert not value(IDS).logits.any()
    randomise(policy, f"lora_B.{POLICY}", 5)
    with as_reference(policy):
        assert torch.allclose(policy(IDS).logits, merged, atol=1e-5)
    moved = policy(IDS).logits
    assert (moved - merged).abs().max() > 0.1
    with pytest.raises(ValueError, match=r"set lora\.r to 4 or more"):
        shared(saved, rank=3)
    # what is saved, and what an engine gets, is the policy's adapter alone, on the same base
    share_reward(policy, "reward_adapter", read_adapter(saved / "prm"))
    sent = {name: weight.clone() for name, weight in plain_weights(policy)}
    keep_policy_adapter(policy)
    save_policy(policy, load_tokenizer(saved / "sft"), saved / "ppo")
    written = AutoModelForCausalLM.from_pretrained(saved / "ppo")
    assert torch.allclose(written(IDS).logits, moved, atol=1e-5)
    assert all(torch.allclose(sent[name], weight, atol=1e-6) for name, weight in written.named_parameters())
    assert read_adapter(saved / "ppo").fingerprint == read_adapter(saved / "sft").fingerprint
    assert read_adapter(saved / "ppo").base == str(saved / "base")
    assert all(file.is_file() for file in (saved / "ppo/adapter").iterdir())


def solutions(prefix):
    """Of one problem; with a long one its tokens are read once for all."""
    problem = "how many are 1+2+3+4+5+6+7+8?" if prefix else "how?"
    return problem, [["a=1+2", f"b={i}+3;c={i}", f"{i}"] for i in range(9)] + [["x=1"], ["# Answer", "5"]]


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_scores_of_a_shared_reward_model_are_those_of_the_merged_one(saved, prefix, checkpointing):
    """In the middle of training, after which everything is as it was: mode, adapter, and what is trained."""
    problem, texts = solutions(prefix)
    separate = Scorer.from_pretrained(saved / "prm", "cpu", max_tokens_per_batch=600)
    expected = separate.score(problem, texts)
    policy, value = shared(saved)
    trained = [name for name, parameter in policy.named_parameters() if parameter.requires_grad]
    adapter = read_adapter(saved / "prm")
    adapter.check_base(fingerprint(policy), "the base")
    model = share_reward(policy, "reward_adapter", adapter)
    randomise(policy, f"lora_B.{POLICY}", 5)
    if checkpointing:
        checkpoint_gradients(policy)
    ActorCritic(policy, value).train()
    before = policy(IDS, use_cache=False).logits.detach()
    scorer = Scorer(model, load_tokenizer(saved / "prm"), StepContract("prm"), max_tokens_per_batch=600)
    reads = []
    handle = model.trunk.register_forward_hook(lambda _, __, output: reads.append(output.past_key_values is not None))
    found = scorer.score(problem, texts)
    handle.remove()
    assert any(reads) == prefix
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.logits == pytest.approx(theirs.logits, abs=1e-5)
    assert max(abs(logit) for row in expected for logit in row.logits) > 0.1
    assert all(module.training for module in policy.modules())
    assert [name for name, parameter in policy.named_parameters() if parameter.requires_grad] == trained
    assert torch.equal(policy(IDS, use_cache=False).logits, before)


def test_the_policys_adapter_is_active_again_after_an_error(saved):
    policy, _ = shared(saved)
    model = share_reward(policy, "reward_adapter", read_adapter(saved / "prm"))
    scorer = Scorer(model, load_tokenizer(saved / "prm"), StepContract("prm"))
    before = policy(IDS).logits

    def fail(*_):
        assert policy.get_base_model().model.layers[0].mlp.up_proj.active_adapters == ["reward_adapter"]
        raise RuntimeError("out of memory")

    handle = model.trunk.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"), as_reference(policy):
        scorer.score("1+1=?", [["2"]])
    handle.remove()
    assert all(layer.active_adapters == [POLICY] for layer in adapted_layers(policy))
    assert torch.equal(policy(IDS).logits, before)


def test_value_model_starts_as_the_shared_reward_model(saved):
    """Rank 2 and alpha 32 in an adapter of rank 4 and alpha 16, which was a copy of the policy's before."""
    policy, value = shared(saved)
    reward = share_reward(policy, "reward_adapter", read_adapter(saved / "prm"))
    merged, _, _ = load_model(saved / "prm", "cpu")
    value.start_from(reward, zero_head=True)
    assert not value(IDS).logits.any()
    value.start_from(reward, zero_head=False)
    assert torch.allclose(value(IDS).logits, merged(IDS).logits, atol=1e-5)
    groups = trained_parameters(policy, value)
    assert [sum(p.numel() for p in group) for group in groups][1] == sum(p.numel() for p in groups[0]) + 32
    assert not reward.score.weight.requires_grad and value.score.weight.requires_grad
    policy, value = shared(saved, start=False, rank=1)
    reward = share_reward(policy, "reward_adapter", read_adapter(saved / "prm"))
    with pytest.raises(ValueError, match=r"set lora\.r to 2 or more"):
        value.start_from(reward, zero_head=False)


def test_a_value_model_whose_head_alone_is_trained(saved):
    policy, value = shared(saved, head_only=True)
    share_reward(policy, "reward_adapter", read_adapter(saved / "prm"))
    assert [p.shape for p in trained_parameters(policy, value)[1]] == [(1, 32)]
    assert all(f".{POLICY}." in name for name, p in policy.named_parameters() if p.requires_grad)


def test_a_policys_adapter_is_no_reward_model(saved):
    policy, _ = shared(saved)
    with pytest.raises(CannotShareError, match="holds no head"):
        share_reward(policy, "reward_adapter", read_adapter(saved / "sft"))


def gradients(saved, checkpointing):
    """Of a loss of policy and value model together, as an update has it: both are forward before the backward pass."""
    policy, value = shared(saved)
    randomise(policy, f"lora_B.{VALUE}", 6)
    torch.nn.init.ones_(value.score.weight)
    module = ActorCritic(policy, value).train()
    if checkpointing:
        checkpoint_gradients(policy)
    calls = []
    handle = policy.get_base_model().model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = RolloutBatch.from_lists([[5, 6, 7], [9, 8]], [[8, 9], [4, 5, 6]], torch.device("cpu"))
    out = module(batch, torch.tensor([0, 1]), 1.0)
    (out.logprobs.sum() + out.values.sum()).backward()
    handle.remove()
    assert len(calls) == (4 if checkpointing else 2)
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}


def test_gradients_are_the_same_where_layers_are_computed_again(saved):
    plain, again = gradients(saved, False), gradients(saved, True)
    assert plain.keys() == again.keys()
    for adapter in (POLICY, VALUE):
        assert max(float(g.abs().max()) for name, g in plain.items() if f".{adapter}." in name) > 1e-2
    for name, gradient in plain.items():
        assert torch.allclose(gradient, again[name], atol=1e-6), name


def test_a_switch_may_be_used_again():
    """PyTorch enters the context of a recomputation anew in each backward pass over one graph."""

    class Layer:
        _active_adapter = "a"

    layer = Layer()
    switch = Active([layer], "b")
    for _ in range(2):
        with switch:
            assert layer._active_adapter == ["b"]
        assert layer._active_adapter == "a"


def test_fsdp_refuses_a_shared_base(tiny, monkeypatch):
    module = ActorCritic(*share_base(tiny[0], LoraSettings(r=4)))
    divide(module, SimpleNamespace(num_processes=2))  # nobody asks for FSDP
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    divide(module, SimpleNamespace(num_processes=1))
    with pytest.raises(ValueError, match="share_base does not run under FSDP"):
        divide(module, SimpleNamespace(num_processes=2))
