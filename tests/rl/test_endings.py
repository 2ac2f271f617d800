"""What ends a completion, and which ids may be sampled, in the decoding loop and in what vLLM is asked for."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_e2h.rl.endings import StopStrings, end_tokens, token_limit
from rlhf_e2h.rl.engine_settings import Sampling
from rlhf_e2h.rl.engine_vllm import sampling_options
from rlhf_e2h.rl.rollout import collect, generate
from rlhf_e2h.rl.value_model import value_from_reward_model
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama, save_policy

PROMPT = "# Question\n\na=1+2;a=?\n\n# Solution\n\n"


def chain(tokenizer, following, rows=None):
    """A model that writes, after each token, the one that `following` names (by id), and else token 7."""
    rows = rows or len(tokenizer)
    config = LlamaConfig(
        vocab_size=rows, hidden_size=rows, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.norm.weight.fill_(1.0)
        model.model.embed_tokens.weight.copy_(torch.eye(rows))
        target = torch.tensor([following.get(one, 7) for one in range(rows)])
        model.lm_head.weight[target, torch.arange(rows)] = 1.0
    return model


@pytest.fixture
def tokenizer():
    return new_llama(ModelShape(hidden=8, layers=1, heads=1), "procedural", 0)[1]


def ids(tokenizer, text):
    return tokenizer(text)["input_ids"]


@pytest.mark.parametrize("listed", [True, False])
def test_any_end_token_of_the_generation_config_ends_as_well(tokenizer, tmp_path, listed):
    [one], [two], [newline] = ids(tokenizer, "1"), ids(tokenizer, "2"), ids(tokenizer, "\n\n")
    model = chain(tokenizer, {newline: one, one: two})
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, two] if listed else two
    save_policy(model, tokenizer, tmp_path)
    model, tokenizer = load_policy(tmp_path)
    assert end_tokens(tokenizer) == end_tokens(tokenizer, model) == {tokenizer.eos_token_id, two}
    rollouts = generate(model, tokenizer, [PROMPT], temperature=0.0, max_new_tokens=9)
    assert (rollouts.finished, rollouts.texts, rollouts.completion_ids) == ([True], ["1"], [[one, two]])
    # what another engine has found, with the tokenizer alone
    found = collect(tokenizer, [[3]], [([one, two], [0.0, 0.0]), ([one, tokenizer.eos_token_id], [0.0, 0.0])], 2)
    assert found.finished == [True, True] and found.texts == ["1", "1"]
    options = sampling_options(Sampling(), tokenizer, len(tokenizer))
    assert options["stop_token_ids"] == sorted([tokenizer.eos_token_id, two])


def test_stop_strings_end_a_completion_and_are_cut_off(tokenizer):
    [newline], [one], [question] = ids(tokenizer, "\n\n"), ids(tokenizer, "1"), ids(tokenizer, "# Question")
    model = chain(tokenizer, {newline: one, one: question, question: one})
    rollouts = generate(model, tokenizer, [PROMPT], temperature=0.0, max_new_tokens=9, stop=["no", "1# Qu"])
    assert (rollouts.finished, rollouts.texts) == ([True], [""])
    assert rollouts.completion_ids == [[one, question]] and len(rollouts.logprobs[0]) == 2
    rollouts = generate(model, tokenizer, [PROMPT], temperature=0.0, max_new_tokens=9, stop=["Question1"])
    assert (rollouts.finished, rollouts.texts) == ([True], ["1# "])
    rollouts = generate(model, tokenizer, [PROMPT], temperature=0.0, max_new_tokens=3, stop=["Answer"])
    assert (rollouts.finished, rollouts.texts) == ([False], ["1# Question1"])


def test_stop_strings_are_found_across_tokens_that_are_parts_of_a_character():
    tokenizer = new_llama(ModelShape(hidden=8, layers=1, heads=1), "byte", 0)[1]
    text = "ein Maß Bier"
    written = ids(tokenizer, text)
    watch = StopStrings(tokenizer, ["Maß"])
    reached = [watch.reached(written[: count + 1]) for count in range(len(written))]
    assert reached.index(True) == len(b"ein Ma") + 1  # the second byte of ß


def test_rows_that_stop_early_keep_their_own_length(tokenizer):
    model, tokenizer = new_llama(ModelShape(hidden=32, layers=2, intermediate=48, heads=2), "procedural", seed=0)
    options = {"n": 40, "max_new_tokens": 40, "seed": 2, "temperature": 1.2}
    free = generate(model, tokenizer, [PROMPT], **options)
    stopped = generate(model, tokenizer, [PROMPT], stop=["3", "b"], **options)
    for whole, text, done, tokens in zip(
        free.texts, stopped.texts, stopped.finished, stopped.completion_ids, strict=True
    ):
        places = [whole.find(one) for one in "3b" if one in whole]
        assert text == (whole[: min(places)] if places else whole)
        assert done or len(tokens) == 40
    assert any(len(tokens) < 40 for tokens in stopped.completion_ids)


def test_ids_that_the_tokenizer_does_not_know_are_never_sampled(tokenizer):
    limit = token_limit(tokenizer)
    assert limit == len(tokenizer) == 102
    model = chain(tokenizer, {one: 150 for one in range(160)}, rows=160)  # it would write 150, which is no token
    greedy = generate(model, tokenizer, [PROMPT], temperature=0.0, max_new_tokens=4)
    assert all(token < limit for token in greedy.completion_ids[0])
    hot = generate(model, tokenizer, [PROMPT], n=64, max_new_tokens=2, seed=1)
    assert all(token < limit for row in hot.completion_ids for token in row)
    # all 102 are as likely as each other, and the log-probability is that of this distribution
    assert hot.logprobs[0][0] == pytest.approx(-torch.tensor(102.0).log().item(), abs=1e-5)
    assert set(sampling_options(Sampling(), tokenizer, 160)["logit_bias"]) == set(range(102, 160))
    assert sampling_options(Sampling(), tokenizer, 102)["logit_bias"] is None


def test_a_value_model_needs_an_embedding_for_every_token(tmp_path, tokenizer, monkeypatch):
    import rlhf_e2h.rl.value_model as module

    model = chain(tokenizer, {})
    monkeypatch.setattr(module, "load_model", lambda *_, **__: (model, tokenizer, None))
    model.resize_token_embeddings(90)
    with pytest.raises(ValueError, match=r"embeddings for 90 tokens.*ids up to 101.*value_init: policy"):
        value_from_reward_model(tmp_path, tokenizer, False)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"top_p": 0.0}, "top_p is 0.0"), ({"min_p": 1.0}, "min_p is 1.0"), ({"stop": "x"}, "list of texts")],
)
def test_filters_out_of_range(tokenizer, wrong, message):
    with pytest.raises(ValueError, match=message):
        generate(chain(tokenizer, {}), tokenizer, [PROMPT], **wrong)


def test_decoding_settings_reach_the_sampler(tokenizer):
    from rlhf_e2h.samples.bank import Decoding, sample
    from rlhf_e2h.training.models import Policy

    [newline], [one], [two] = (ids(tokenizer, text) for text in ("\n\n", "1", "2"))
    policy = Policy(chain(tokenizer, {newline: one, one: two}), tokenizer)
    problem = {"problem_id": "p", "problem": "a=1+2;a=?"}
    [row] = sample(policy, [problem], Decoding(n=1, temperature=0.0, max_new_tokens=5, stop=["2"]), seed=0)
    assert row["text"] == "1" and row["finished"]
    with pytest.raises(ValueError, match="top_p is 2"):
        Decoding(top_p=2)
    json.dumps(row)
