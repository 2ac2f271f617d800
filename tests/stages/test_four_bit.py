"""QLoRA for policies: frozen weights in 4 bits, adapters that are merged into the full ones."""

import importlib.util

import pytest
import torch
from mini_rounds import DPO, GRPO, REST, TRAINING, make_models, run, weights
from safetensors.torch import load_file

from reward_models.lora import four_bit
from reward_models.settings import LoraSettings
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.training.arguments import TrainingSettings

SFT = {"stage": "sft", "limit": 8}
FOUR_BIT = {"training": {**TRAINING, "lora": {"r": 2}, "load_in_4bit": True}}


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


@pytest.mark.slow
@pytest.mark.parametrize("stage", [SFT, DPO, REST, GRPO], ids=lambda stage: stage["stage"])
def test_a_policy_trains_on_4_bit_weights_and_is_saved_in_full(tmp_path, models, stage):
    """What is added to the full weights is the adapter's product, and nothing of the rounding to 4 bits."""
    pytest.importorskip("bitsandbytes")
    settings = {"rounds": 1} if stage in (DPO, REST) else {}
    if stage is SFT:
        settings = {"bare": True, "policy": str(models / "policy"), "data": "@prepare"}
    folder, _ = run(tmp_path, models, stage, **settings, **FOUR_BIT)
    before, after = weights(ASSETS / "base" if stage is REST else models / "policy"), weights(folder)
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    products = {
        name.removeprefix("base_model.model.").replace("lora_A.", ""): adapter[name.replace("lora_A", "lora_B")] @ value
        for name, value in adapter.items()
        if "lora_A" in name
    }
    assert before.keys() == after.keys() and any(bool(product.any()) for product in products.values())
    for name, value in after.items():
        wanted = before[name].float() + products.get(name, torch.zeros(())) * (16 / 2)  # lora_alpha / r
        torch.testing.assert_close(
            value.float(), wanted, atol=1e-5, rtol=1e-5 if value.dtype == torch.float32 else 1e-2
        )
