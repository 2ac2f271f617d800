"""Log-probabilities and entropies in chunks against the plain form, and how much memory they take."""

from copy import deepcopy

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from reward_models.lora import with_lora
from reward_models.settings import LoraSettings
from rlhf_e2h.rl import chunked_logits
from rlhf_e2h.rl.actor_critic import ActorCritic, RolloutBatch, reference_logprobs

PROMPTS = [[3, 4, 5], [6, 7, 8, 9, 10], [11]]
COMPLETIONS = [[12, 13, 14, 15, 16, 1], [17, 1], [18, 19, 20, 21]]
VOCABULARY = 60


def llama(vocabulary=VOCABULARY, tied=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gemma():
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0, initializer_range=0.3,
    )  # fmt: skip
    return Gemma2ForCausalLM(config)


def adapted():
    model = with_lora(llama(), LoraSettings(r=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return model


class Value(torch.nn.Module):
    def forward(self, input_ids, use_cache):
        return type("Output", (), {"logits": torch.zeros(*input_ids.shape, 1)})


def plain(model, temperature, limit):
    """Row by row, from the model's own logits without padding: (log-probabilities, entropies)."""
    found = []
    for prompt, completion in zip(PROMPTS, COMPLETIONS, strict=True):
        logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1, :limit] / temperature
        logprobs = logits.log_softmax(-1)
        chosen = logprobs.gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)
        found.append((chosen, -(logprobs.exp() * logprobs).sum(-1)))
    return found


@pytest.mark.parametrize("chunk", [2**25, 7 * VOCABULARY, VOCABULARY])
@pytest.mark.parametrize(
    "make", [llama, lambda: llama(tied=True), gemma, adapted], ids=["llama", "tied", "capped", "lora"]
)
@pytest.mark.parametrize(("temperature", "limit"), [(1.0, None), (0.7, 50)])
def test_values_and_gradients_are_those_of_the_plain_form(make, chunk, temperature, limit, monkeypatch):
    monkeypatch.setattr(chunked_logits, "CHUNK", chunk)
    model, other = make(), make()
    batch = RolloutBatch.from_lists(PROMPTS, COMPLETIONS, torch.device("cpu"))
    rows = torch.tensor([2, 0, 1])
    for _ in range(2):  # the second time, a model that changes its logits is known
        found = ActorCritic(model, Value(), limit)(batch, rows, temperature)
    expected = plain(other, temperature, limit)
    for place, row in enumerate(rows.tolist()):
        length = len(COMPLETIONS[row])
        torch.testing.assert_close(found.logprobs[place, :length], expected[row][0], atol=1e-5, rtol=1e-6)
        torch.testing.assert_close(found.entropy[place, :length], expected[row][1], atol=1e-5, rtol=1e-6)
        assert not found.logprobs[place, length:].any() and not found.entropy[place, length:].any()
    assert not found.entropy.requires_grad
    weight_BT = torch.arange(1.0, 1 + found.logprobs.numel()).view_as(found.logprobs) / 10
    (found.logprobs * weight_BT).sum().backward()
    sum(
        (expected[row][0] * weight_BT[place, : len(COMPLETIONS[row])]).sum() for place, row in enumerate(rows.tolist())
    ).backward()
    pairs = [(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True) if b.grad is not None]
    assert pairs
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, atol=2e-5, rtol=1e-4)


def test_the_output_layer_is_as_it_was():
    model = llama()
    before = deepcopy(model.state_dict())
    batch = RolloutBatch.from_lists(PROMPTS, COMPLETIONS, torch.device("cpu"))
    with torch.no_grad():
        reference_logprobs(model, batch, torch.arange(3), 1.0)
    assert "forward" not in model.lm_head.__dict__
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, 2, VOCABULARY)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def peak_of(run):
    """Most bytes that live at one time beyond what lived before, by the allocator's own events."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    level, most = 0, 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        most = max(most, level)
    return most


@pytest.mark.parametrize("training", [False, True])
def test_peak_memory_does_not_grow_with_rows_and_lengths(training, monkeypatch):
    vocabulary, positions = 8000, 16
    monkeypatch.setattr(chunked_logits, "CHUNK", positions * vocabulary)
    chunk = positions * vocabulary * 4  # bytes: 512,000
    model = llama(vocabulary)

    def peak(rows, length):
        ids = torch.randint(2, vocabulary, (rows, length)).tolist()
        batch = RolloutBatch.from_lists([[5, 6]] * rows, ids, torch.device("cpu"))

        def run():
            with torch.set_grad_enabled(training):
                found = ActorCritic(model, Value())(batch, torch.arange(rows), 1.0)
                if training:
                    found.logprobs.sum().backward()

        most = peak_of(run)
        model.zero_grad()
        return most

    small, large = peak(4, 16), peak(8, 64)
    # a chunk's logits, and what is computed from them: no more, however many tokens there are
    assert small < 12 * chunk
    # 448 tokens more, of which all logits would take 28 chunks; layers keep some hundred numbers a token in training
    assert large - small < 448 * (20_000 if training else 2_000)
    assert large < 32 * chunk
