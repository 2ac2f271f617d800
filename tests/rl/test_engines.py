"""Engines give the same greedy texts, and log-probabilities that a plain forward pass confirms."""

import pytest
import torch

from reward_models.lora import with_lora
from reward_models.settings import LoraSettings
from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling, engine_dtype, plain_weights, weight_groups
from rlhf_e2h.rl.engines import open_engine
from rlhf_e2h.training.models import ModelShape, new_llama

PROMPTS = ["# Question\n\na=1+2;a=?\n\n# Solution\n\n", "# Question\n\nb=3*4;c=b+6;c=?\n\n# Solution\n\n"]


@pytest.fixture(scope="module")
def tiny():
    return new_llama(ModelShape(hidden=32, layers=2, intermediate=48, heads=2), "procedural", seed=0)


def scored(model, rollouts, row, temperature):
    """Log-probabilities of a completion, by one plain forward pass."""
    prompt, completion = rollouts.prompt_ids[row], rollouts.completion_ids[row]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)


def test_engine_samples_from_the_model(tiny):
    model, tokenizer = tiny
    engine = open_engine(EngineSettings("hf"), model, tokenizer)
    rollouts = engine.sample(PROMPTS, Sampling(n=3, temperature=0.7, max_new_tokens=20, seed=1))
    assert len(rollouts) == 6 and rollouts.prompt_ids[2] == rollouts.prompt_ids[0] != rollouts.prompt_ids[3]
    assert len({tuple(ids) for ids in rollouts.completion_ids}) == 6  # the samples of a prompt are independent
    for row in range(6):
        expected = scored(model, rollouts, row, 0.7)
        assert torch.tensor(rollouts.logprobs[row]) == pytest.approx(expected, abs=1e-4)
    again = engine.sample(PROMPTS, Sampling(n=3, temperature=0.7, max_new_tokens=20, seed=1))
    other = engine.sample(PROMPTS, Sampling(n=3, temperature=0.7, max_new_tokens=20, seed=2))
    assert again.completion_ids == rollouts.completion_ids != other.completion_ids


def test_plain_weights_are_those_of_the_merged_model(tiny):
    model, _ = new_llama(ModelShape(hidden=32, layers=2, intermediate=48, heads=2), "procedural", seed=0)
    adapted = with_lora(model, LoraSettings(r=4))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # zero at first, so that the adapter would change nothing
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    before = {name: parameter.detach().clone() for name, parameter in adapted.named_parameters()}
    found = {name: weight.clone() for name, weight in plain_weights(adapted)}
    assert all(torch.equal(parameter, before[name]) for name, parameter in adapted.named_parameters())
    merged = dict(adapted.merge_and_unload().named_parameters())
    assert found.keys() == merged.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(found[name], weight.detach())
    assert not torch.equal(found["model.layers.0.mlp.up_proj.weight"], tiny[0].model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "hf", "url": "http://localhost:1"}, "set name: vllm"),
        ({"name": "vllm", "url": "localhost:1"}, "must start with http"),
        ({"name": "vllm", "memory_share": 0.0}, "above 0"),
        ({"name": "paged"}, "allowed: hf, vllm; paged has been removed"),
        ({"name": "sglang"}, "allowed: hf, vllm$"),
    ],
)
def test_engine_settings_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        EngineSettings(**settings)


def test_engines_that_do_not_run_here_say_what_to_do(tiny):
    with pytest.raises(ValueError, match=r"no answer from http://127.0.0.1:9 .*start `vllm serve` there"):
        open_engine(EngineSettings("vllm", url="http://127.0.0.1:9"), *tiny)
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"vLLM is not installed in this environment.*set engine name: hf"):
            open_engine(EngineSettings("vllm"), *tiny)


def test_weights_go_to_a_server_in_groups_of_whole_layers_in_the_asked_precision():
    """Two layers of .36 MB and the rest: with room for one layer, no group holds two, and none a part of one."""
    model, _ = new_llama(ModelShape(hidden=64, layers=3, intermediate=128, heads=2), "procedural", 0)
    whole = dict(plain_weights(model))
    groups = list(weight_groups(plain_weights(model, torch.bfloat16), 90_000))
    assert [name for group in groups for name in group] == list(whole)
    assert {weight.dtype for group in groups for weight in group.values()} == {torch.bfloat16}
    layers = [{name.split(".")[2] for name in group if ".layers." in name} for group in groups]
    assert sorted(layer for found in layers for layer in found) == ["0", "1", "2"] and max(map(len, layers)) == 1
    assert len(list(weight_groups(plain_weights(model), 10**9))) == 1


def test_an_engine_beside_a_float32_policy_is_bfloat16_on_gpus(monkeypatch):
    model, _ = new_llama(ModelShape(hidden=16, layers=1, intermediate=16, heads=1), "procedural", 0)
    assert engine_dtype(EngineSettings(), model) == torch.float32
    assert engine_dtype(EngineSettings(dtype="bfloat16"), model) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert engine_dtype(EngineSettings(), model) == torch.bfloat16
    with pytest.raises(ValueError, match="engine dtype is 'half'; allowed: auto, float32, bfloat16, float16"):
        EngineSettings(dtype="half")
