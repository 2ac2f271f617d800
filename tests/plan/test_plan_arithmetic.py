"""Sizes and operations against counters of torch, on the meta device or on tiny models."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification, Qwen2Config, Qwen2ForCausalLM

from reward_models.lora import with_lora
from reward_models.model import freeze_parts
from reward_models.precision import store_frozen_in_bf16
from reward_models.settings import LoraSettings
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.tools.plan.activations import kept, layer_bytes
from rlhf_e2h.tools.plan.launches import parse_size
from rlhf_e2h.tools.plan.memory import Form, Trained, state
from rlhf_e2h.tools.plan.phases import Update, _moments, load
from rlhf_e2h.training.architecture import known, of_config, read_architecture
from rlhf_e2h.training.flops import forward_flops, sampling_flops, training_flops

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def made(**changes):
    config = LlamaConfig(**{**SHAPE, **changes})
    return of_config("tiny", config), LlamaForCausalLM(config)


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_the_model(tied):
    model, real = made(tie_word_embeddings=tied)
    assert model.parameters == real.num_parameters()
    scorer = LlamaForTokenClassification(LlamaConfig(**SHAPE, tie_word_embeddings=tied, num_labels=1))
    assert model.scorer_parameters == scorer.num_parameters()
    adapted = with_lora(real, LoraSettings(r=3))
    assert model.lora_parameters(3) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_known_models_have_their_published_sizes():
    """7.62 and 1.54 thousand million parameters are on Qwen2.5-Math's model pages, 6.74 and 33.74 are CodeLlama's."""
    sizes = {"EleutherAI/llemma_7b": 6.74e9, "EleutherAI/llemma_34b": 33.74e9}
    sizes |= {"Qwen/Qwen2.5-Math-1.5B": 1.54e9, "Qwen/Qwen2.5-Math-7B-Instruct": 7.62e9}
    for name, parameters in sizes.items():
        assert known(name).parameters == pytest.approx(parameters, rel=3e-3)
    config = Qwen2Config(
        vocab_size=151936, hidden_size=1536, num_hidden_layers=28, intermediate_size=8960, num_attention_heads=12,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        assert known("Qwen/Qwen2.5-Math-1.5B").parameters == Qwen2ForCausalLM(config).num_parameters()


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def test_operations_are_those_that_torch_counts():
    model, real = made(attn_implementation="eager")  # the counter does not know the fused kernel of the CPU
    ids = torch.zeros(2, 7, dtype=torch.long)
    assert forward_flops(model, 14, 7) == counted(lambda: real(ids))
    assert forward_flops(model, 14, 7, head=2) == counted(lambda: real(ids, logits_to_keep=1))
    # the first layer's input needs no gradient, but weights in front of it (the embedding) do: three times in all
    assert training_flops(model, 14, 7) == counted(lambda: real(ids, labels=ids).loss.backward())
    real.gradient_checkpointing_enable({"use_reentrant": True})
    real.train()
    counted_once = counted(lambda: real(ids, labels=ids).loss.backward())
    assert training_flops(model, 14, 7, checkpointing=True) == counted_once


def test_sampling_reads_a_prompt_once_for_all_its_samples():
    model, _ = made()
    one = sampling_flops(model, 1, 1, 10, 20)
    both = sampling_flops(model, 1, 2, 10, 20)
    assert both - one == forward_flops(model, 20, 20)
    assert one - forward_flops(model, 20, 20) == forward_flops(model, 10, 10, head=1)


def saved_bytes(model, ids, dtype=None):
    """Bytes that autograd keeps in a forward pass, each storage once, parameters left out."""
    kept = {}
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t)
    with hooks, torch.autocast("cpu", dtype, enabled=dtype is not None):
        model(ids, use_cache=False)
    return sum(kept.values())


@pytest.mark.parametrize(
    ("dtype", "rank", "key_heads"),
    [(None, 0, 4), (None, 0, 2), (None, 4, 4), (torch.bfloat16, 0, 4), (torch.bfloat16, 4, 4)],
)
def test_activations_are_what_autograd_keeps(dtype, rank, key_heads):
    """Two depths, so that the difference is exactly two layers, whatever stands before and behind them."""
    ids = torch.zeros(4, 64, dtype=torch.long)
    found = []
    for layers in (2, 4):
        shape = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": layers}
        model, real = made(**shape, num_key_value_heads=key_heads)
        if rank:
            adapted = with_lora(real, LoraSettings(r=rank))
            if dtype is not None:
                store_frozen_in_bf16(adapted, always_autocast=True)
            real = adapted.get_base_model()
        found.append(saved_bytes(real.model, ids, dtype))
    copies = 0
    if dtype is not None:
        copies = 2 * 2 * (model.lora_parameters(rank) // 4 if rank else model.layer_parameters)  # which `state` counts
    measured = (found[1] - found[0] - copies) / 2 / ids.numel()
    assert layer_bytes(model, dtype is not None, rank > 0, rank > 0 and dtype is not None) == pytest.approx(
        measured,
        rel=0.035,  # of adapters, what comes between their two matrices is left out
    )


def test_state_of_a_model_of_a_million_weights_by_hand():
    model, _ = made()
    trained = (Trained(model),)
    p = model.parameters
    assert state(trained, Form("single"), False) == {"weights": 4 * p, "gradients": 4 * p, "optimiser": 8 * p}
    ddp = state(trained, Form("ddp", 4, "ddp"), False)
    assert sum(ddp.values()) == 20 * p  # gradients twice
    zero2 = state(trained, Form("zero2", 4, "deepspeed", 2), True)
    # bf16 weights, a quarter of bf16 gradients, and of float32 weights and moments
    assert (zero2["weights"], zero2["gradients"], zero2["optimiser"]) == (2 * p, 2 * p / 4, 12 * p / 4)
    zero3 = state(trained, Form("zero3", 4, "deepspeed", 3, True, True), False)
    assert (zero3["weights"], zero3["gradients"], zero3["optimiser"]) == (0, 0, 0)


def test_what_is_frozen_has_no_gradient_and_no_moments():
    model, real = made(num_hidden_layers=2)
    freeze_parts(real, embeddings=True, norms=True)
    trained = sum(p.numel() for p in real.parameters() if p.requires_grad)
    parts = state((Trained(model, freeze_embeddings=True, freeze_norms=True),), Form("single"), False)
    assert (parts["weights"], parts["gradients"], parts["optimiser"]) == (
        4 * model.parameters,
        4 * trained,
        8 * trained,
    )


def test_layers_in_4_bits_by_hand():
    """Half a byte a weight of a linear layer and a float32 scale for 64; embeddings and norms as before."""
    model, real = made(hidden_size=128, intermediate_size=320)
    layers = sum(p.numel() for name, p in real.named_parameters() if name.endswith("proj.weight"))
    rest = model.parameters - layers
    found = state((Trained(model, adapters=1000, four_bit=True),), Form("single"), False)
    assert found["weights"] == pytest.approx(layers * 0.5625 + rest * 4 + 1000 * 4, rel=0.02)
    assert (found["gradients"], found["optimiser"]) == (4000, 8000)


def test_rank_0_reads_for_all_where_weights_are_sharded():
    """8 ranks, two trained models and a reference of W weights each, and a reward model of 100 bytes."""
    model, _ = made()
    size = 4.0 * model.parameters

    def read(form, read_by_all=()):
        share = form.processes if form.divides_weights else 1
        frozen = {"reference": size / share, "reward model": 100.0}
        return load(Update((Trained(model),) * 2, 1, 1, frozen=frozen, read_by_all=read_by_all), form).host_of(8)

    assert read(Form("ddp", 8, "ddp")) == read(Form("zero2", 8, "deepspeed", 2)) == 8 * (3 * size + 100)
    assert read(Form("fsdp", 8, "fsdp")) == read(Form("zero3", 8, "deepspeed", 3)) == 3 * size + 8 * 100
    assert read(Form("fsdp", 8, "fsdp"), ("reference",)) == 2 * size + 8 * (size + 100)
    assert read(Form("fsdp", 8, "fsdp"), ("weights",)) == 8 * (2 * size + 100) + size


def test_checkpointing_and_accumulation():
    model, _ = made(num_hidden_layers=40)
    trained = Trained(model)
    assert kept(trained, 100, False, True) < 0.15 * kept(trained, 100, False, False)
    once, often = (_moments(Update((trained,), 1, 8, n), Form("single"))[0] for n in (1, 4))
    assert once["gradients"] == 0 and often["gradients"] == 4 * model.parameters


def test_sizes_are_read_and_nonsense_is_refused():
    assert parse_size("80G") == 80e9
    assert parse_size("1.5 GiB") == 1.5 * 2**30
    for text in ("80", "80X", "-1G", "G"):
        if text == "80":
            assert parse_size(text) == 80
            continue
        with pytest.raises(ConfigError, match="80G"):
            parse_size(text)


def test_a_model_that_cannot_be_reached_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="give a model folder"):
        read_architecture(tmp_path)
