"""Logits read by `read_logits` against the plain forward pass of `transformers`, which computes every token."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForTokenClassification, GPT2Config, LlamaConfig, MixtralConfig, Qwen2Config

from reward_models.forward import evaluating, last_parts, read_logits

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 50}
WIDE = {**SIZES, "intermediate_size": 32}
CONFIGS = {
    "llama": LlamaConfig(**WIDE, num_key_value_heads=1),
    "qwen2": Qwen2Config(**WIDE, num_key_value_heads=2),
    "gpt2": GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=50),
}
LINE, PLACE = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([7, 11, 9, 8, 8, 10])


def random_classifier(config):
    torch.manual_seed(0)
    config.num_labels = 1
    return AutoModelForTokenClassification.from_config(config).eval()


PARTS = {"llama": 3, "qwen2": 3, "gpt2": 1}  # queries, output projection, feed-forward block; GPT-2 fuses the first


def with_adapters(model):
    """LoRA that adds something in every layer."""
    config = LoraConfig(r=2, target_modules="all-linear", exclude_modules=["score", "classifier"])
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return adapted.eval()


@pytest.mark.parametrize("name", [*CONFIGS, "llama with adapters"])
@pytest.mark.parametrize("shared", [0, 5])
def test_read_logits_are_those_of_the_whole_pass(name, shared):
    name, _, adapters = name.partition(" ")
    model = random_classifier(CONFIGS[name])
    if adapters:
        model = with_adapters(model)
    ids_BT = torch.randint(50, (3, 12))
    ids_BT[:, :5] = ids_BT[0, :5]
    sizes = []
    handles = [
        part.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].numel() // 16))
        for part in last_parts(model)
    ]
    with torch.inference_mode():
        read_R = read_logits(model, ids_BT, None, LINE, PLACE, shared)
        for handle in handles:
            handle.remove()
        whole_BT = model(input_ids=ids_BT).logits[:, :, 0]  # also shows that no hook is left behind
    assert torch.allclose(read_R, whole_BT[LINE, PLACE], atol=1e-6)
    parts = PARTS[name]
    assert sizes == ([0] * parts if shared else []) + [6] * parts  # tokens that entered the parts of the last layer


def test_mode_is_put_back_and_mask_is_used():
    model = random_classifier(CONFIGS["llama"]).train()
    ids_BT, mask_BT = torch.randint(50, (1, 6)), torch.tensor([[0, 0, 1, 1, 1, 1]])
    with torch.inference_mode():
        masked = read_logits(model, ids_BT, mask_BT, torch.tensor([0]), torch.tensor([5]))
        assert model.training
        whole = model.eval()(input_ids=ids_BT, attention_mask=mask_BT).logits[0, 5]
    assert torch.allclose(masked, whole, atol=1e-6)


def test_parts_are_put_back_in_their_own_modes():
    """The trunk may be that of a policy in training, and parts of a model need not be in one mode."""
    model = random_classifier(CONFIGS["llama"])
    model.model.layers[1].train()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="out of memory"), evaluating(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("out of memory")
    assert [module.training for module in model.modules()] == modes and True in modes and False in modes


def test_mixtures_of_experts_are_left_alone():
    config = MixtralConfig(**WIDE, num_key_value_heads=2, num_local_experts=2)
    model = random_classifier(config)
    assert [type(part).__name__ for part in last_parts(model)] == ["Linear", "Linear"]
    ids_BT = torch.randint(50, (3, 12))
    with torch.inference_mode():
        whole_BT = model(input_ids=ids_BT).logits[:, :, 0]
        assert torch.allclose(read_logits(model, ids_BT, None, LINE, PLACE), whole_BT[LINE, PLACE], atol=1e-6)
