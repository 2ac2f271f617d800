"""The decoding cache against a plain forward pass, its precision, and that it is written in place."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from rlhf_e2h.rl import kv_cache
from rlhf_e2h.rl.kv_cache import BufferLayer, decoding_cache, kept_rows
from rlhf_e2h.rl.rollout import generate
from rlhf_e2h.training.models import ModelShape, new_llama

PROMPTS = ["# Question\n\na=1+2;a=?\n\n# Solution\n\n", "# Question\n\nb=3*4;c=b+6;c=?\n\n# Solution\n\n"]


@pytest.fixture(scope="module")
def grouped():
    """Four query heads on each of two key and value heads."""
    tokenizer = new_llama(ModelShape(hidden=8, layers=1, heads=1), "procedural", 0)[1]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), tokenizer


def plain_logprobs(model, rollouts, row):
    prompt, completion = rollouts.prompt_ids[row], rollouts.completion_ids[row]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].float()
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)


def test_grouped_heads_and_growing_buffers_are_those_of_a_plain_pass(grouped, monkeypatch):
    monkeypatch.setattr(kv_cache, "STEP", 7)  # many growths within 40 tokens
    model, tokenizer = grouped
    # rows of both prompts end at different times, and leave
    rollouts = generate(model, tokenizer, PROMPTS, n=12, temperature=1.0, max_new_tokens=40, seed=1)
    assert any(rollouts.finished) and not all(rollouts.finished)
    for row in range(24):
        expected = plain_logprobs(model, rollouts, row)
        assert torch.tensor(rollouts.logprobs[row]) == pytest.approx(expected, abs=1e-4), row
    assert model.config._attn_implementation == "sdpa"


def test_models_with_a_window_keep_the_cache_of_transformers(grouped):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=102, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=12,
    )  # fmt: skip
    model = MistralForCausalLM(config).eval()
    with decoding_cache(model, 50) as cache:
        assert isinstance(cache, DynamicCache)
    rollouts = generate(model, grouped[1], PROMPTS, n=3, max_new_tokens=20, seed=1)
    for row in range(6):
        assert torch.tensor(rollouts.logprobs[row]) == pytest.approx(plain_logprobs(model, rollouts, row), abs=1e-4)


def test_keys_and_values_are_kept_in_the_precision_of_the_computation(grouped):
    model, _ = grouped
    ids = torch.arange(1, 9)[None]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), decoding_cache(model, 12) as cache:
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    assert cache.layers[0].keys.dtype == cache.layers[0].values.dtype == torch.bfloat16
    with torch.no_grad(), decoding_cache(model, 12) as cache:
        model(input_ids=ids, past_key_values=cache, use_cache=True)
    assert cache.layers[1].keys.dtype == torch.float32


def test_a_token_is_written_in_place_and_a_row_that_stays_is_not_copied():
    layer = BufferLayer(limit=100)
    layer.update(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 3, 2), torch.zeros(4, 1, 3, 2))
    layer.batch_repeat_interleave(1)
    place = layer.buffers[0].data_ptr()
    keys, _ = layer.update(torch.full((4, 1, 1, 2), 9.0), torch.zeros(4, 1, 1, 2))
    assert layer.buffers[0].data_ptr() == keys.data_ptr() == place
    assert keys[:, 0, :, 0].tolist() == [[row] * 3 + [9.0] for row in range(4)]
    order = kept_rows(torch.tensor([True, False, True, True]))
    assert order.tolist() == [0, 3, 2]  # row 3 goes where row 1 was
    layer.batch_select_indices(order)
    assert layer.keys.data_ptr() == place and layer.keys[:, 0, 0, 0].tolist() == [0.0, 3.0, 2.0]
    assert layer.get_seq_length() == 4


def test_a_frozen_output_layer_is_not_copied_for_each_row(grouped):
    model, tokenizer = grouped
    model.requires_grad_(False)
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            generate(model, tokenizer, PROMPTS, max_new_tokens=2)
    finally:
        model.requires_grad_(True)
    assert "aten::bmm" not in {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize(
    ("going", "expected"),
    [([0, 0, 1, 1], [2, 3]), ([1, 1, 0, 0], [0, 1]), ([0, 1, 0, 1, 1], [3, 1, 4]), ([1], [0])],
)
def test_kept_rows(going, expected):
    assert kept_rows(torch.tensor(going).bool()).tolist() == expected
