"""QLoRA for policies: frozen weights in 4 bits, adapters that are merged into the full ones."""

import importlib.util

import pytest
import torch
from mini_rounds import DPO, GRPO, REST, TRAINING, make_models, run, weights
from safetensors.torch import load_file

from reward_models.contract import StepContract
from reward_models.lora import four_bit
from reward_models.model import head_of, new_model
from reward_models.records import read_jsonl
from reward_models.settings import LoraSettings
from rlhf_e2h.rl.actor_critic import disable_dropout
from rlhf_e2h.rl.value_model import value_from_policy, value_from_reward_model
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.models import load_policy

SFT = {"stage": "sft", "limit": 8}
QLORA = {"lora": {"r": 2}, "load_in_4bit": True}
FOUR_BIT = {"training": {**TRAINING, **QLORA}}
PPO = {"stage": "ppo", "data": "@prepare", "steps": 2, "rollouts": 8, "num_mini_batches": 2, "max_new_tokens": 12}
PPO |= {"learning_rate": 1e-2, "warmup_steps": 0, **QLORA}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


def test_without_bitsandbytes_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        four_bit(TrainingSettings(lora=LoraSettings(4), load_in_4bit=True))
    assert four_bit(TrainingSettings(lora=LoraSettings(4))) is None


def test_weights_in_4_bits_cannot_be_trained_themselves(tmp_path, models):
    with pytest.raises(ConfigError, match=r"load_in_4bit needs lora\.r above 0"):
        run(tmp_path, models, SFT, bare=True, policy="p", data="@prepare", training={"load_in_4bit": True})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": {}}, r"load_in_4bit needs lora\.r above 0"),
        ({"share_base": True}, "load_in_4bit does not go with share_base"),
        ({"engine": {"name": "vllm"}, "importance_cap": 2.0}, "load_in_4bit needs engine name hf, found vllm"),
    ],
)
def test_ppo_refuses_before_it_loads_anything_what_cannot_be_in_4_bits(tmp_path, models, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, models, PPO, bare=True, policy="p", reward_model="r", **settings)


def test_gradients_after_an_evaluation_are_those_before_it(models):
    """On a CPU with AVX512-BF16 bitsandbytes packs weights in an evaluation pass, and the packed give no gradient."""
    pytest.importorskip("bitsandbytes")
    settings = TrainingSettings(lora=LoraSettings(2), load_in_4bit=True)
    policy, tokenizer = load_policy(models / "policy", quantization=four_bit(settings))
    scorer = four_bit(settings, scorer=True)
    new = [new_model(models / "policy", StepContract("prm"), quantization=scorer)]
    new += [value_from_policy(models / "policy", quantization=scorer)]
    for model in new:
        torch.nn.init.ones_(head_of(model).weight)
    trained = value_from_reward_model(models / "prm", tokenizer, False, quantization=scorer)
    ids = torch.arange(5, 25)[None]
    for model in (policy, trained, *new):
        disable_dropout(model)
        embedding = model.get_input_embeddings().weight.requires_grad_(True)

        def gradient(model=model, embedding=embedding):
            (found,) = torch.autograd.grad(model.train()(input_ids=ids).logits.sum(), embedding)
            return found

        before = gradient()
        with torch.no_grad():
            model.eval()(input_ids=ids)
        assert before.any() and torch.equal(gradient(), before)


def adapter_products(folder, scale=16 / 2):
    """What a saved adapter adds to each weight; `scale` is lora_alpha / r."""
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").replace("lora_A.", ""): adapter[name.replace("lora_A", "lora_B")]
        @ value
        * scale
        for name, value in adapter.items()
        if "lora_A" in name
    }


@pytest.mark.parametrize("stage", [SFT, DPO, REST, GRPO, PPO], ids=lambda stage: stage["stage"])
def test_a_policy_trains_on_4_bit_weights_and_is_saved_in_full(tmp_path, models, stage):
    """What is added to the full weights is the adapter's product, and nothing of the rounding to 4 bits."""
    pytest.importorskip("bitsandbytes")
    settings = {"rounds": 1} if stage in (DPO, REST) else {}
    if stage in (SFT, PPO):
        settings = {"bare": True, "policy": str(models / "policy"), "data": "@prepare"}
    settings |= {"reward_model": str(models / "prm")} if stage is PPO else FOUR_BIT
    folder, _ = run(tmp_path, models, stage, **settings)
    before, after = weights(ASSETS / "base" if stage is REST else models / "policy"), weights(folder)
    products = adapter_products(folder)
    assert before.keys() == after.keys() and any(bool(product.any()) for product in products.values())
    for name, value in after.items():
        wanted = before[name].float() + products.get(name, torch.zeros(()))
        torch.testing.assert_close(
            value.float(), wanted, atol=1e-5, rtol=1e-5 if value.dtype == torch.float32 else 1e-2
        )


@pytest.mark.parametrize("value_init", ["reward", "policy"])
def test_the_reference_of_ppo_is_the_policy_in_4_bits_without_its_adapter(tmp_path, models, value_init):
    pytest.importorskip("bitsandbytes")
    settings = {"policy": str(models / "policy"), "reward_model": str(models / "prm"), "value_init": value_init}
    folder, _ = run(tmp_path, models, PPO, bare=True, **settings, kl_coef=0.1)
    first, second = read_jsonl(folder / "metrics.jsonl")
    assert first["objective/kl"] == pytest.approx(0, abs=1e-6) and first["val/ratio_first"] == pytest.approx(1)
    assert second["objective/kl"] != pytest.approx(0, abs=1e-6)
    assert first["critic/grad_norm"] > 0 < first["policy/grad_norm"]
