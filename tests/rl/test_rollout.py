import itertools
import math

import pytest
import torch

from rlhf_e2h.rl.rollout import generate, similar_lengths
from rlhf_e2h.training.models import ModelShape, new_llama

PROMPTS = ["# Question\n\na=1+2;a=?\n\n# Solution\n\n", "# Question\n\nb=3*4;c=b+6;c=?\n\n# Solution\n\n"]


@pytest.fixture(scope="module")
def tiny():
    return new_llama(ModelShape(hidden=32, layers=2, intermediate=48, heads=2), "procedural", seed=0)


def _scored(model, tokenizer, rollouts, row, temperature):
    """Log-probabilities of a completion, by one plain forward pass without cache or padding."""
    prompt, completion = rollouts.prompt_ids[row], rollouts.completion_ids[row]
    ids = torch.tensor([prompt + completion])
    with torch.no_grad():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].float() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(completion)[:, None]).squeeze(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_plain_forward_pass(tiny, temperature):
    model, tokenizer = tiny
    rollouts = generate(model, tokenizer, PROMPTS, n=3, temperature=temperature, max_new_tokens=40, seed=1)
    assert len(rollouts) == 6
    for row in range(6):
        expected = _scored(model, tokenizer, rollouts, row, temperature)
        assert torch.tensor(rollouts.logprobs[row]) == pytest.approx(expected, abs=1e-4)


SHOTS = "".join(f"# Question\n\na={i}+2;a=?\n\n# Solution\n\n{i + 2}\n\n" for i in range(5))
FEW_SHOT = [SHOTS + prompt for prompt in [*PROMPTS, "# Question\n\na=1;a=?\n\n# Solution\n\n"]]


def test_exemplars_are_read_once_for_all_prompts(tiny):
    model, tokenizer = tiny
    read: list[torch.Size] = []
    hook = model.model.layers[0].mlp.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape))
    rollouts = generate(model, tokenizer, FEW_SHOT, n=2, max_new_tokens=20, seed=3)
    hook.remove()
    lengths = [len(ids) for ids in rollouts.prompt_ids[::2]]
    shared = read[0][1]
    assert read[0][0] == 1 and shared >= len(tokenizer(SHOTS)["input_ids"]) > 64
    assert read[1][:2] == (3, max(lengths) - shared) and read[2][:2] == (6, 1)
    for row in range(6):
        expected = _scored(model, tokenizer, rollouts, row, 1.0)
        assert torch.tensor(rollouts.logprobs[row]) == pytest.approx(expected, abs=1e-4)
    alone = [generate(model, tokenizer, [prompt], n=1, temperature=0.0, max_new_tokens=20) for prompt in FEW_SHOT]
    together = generate(model, tokenizer, FEW_SHOT, n=1, temperature=0.0, max_new_tokens=20)
    assert together.completion_ids == [one.completion_ids[0] for one in alone]


def test_greedy_is_that_of_transformers(tiny):
    model, tokenizer = tiny
    rollouts = generate(model, tokenizer, PROMPTS, temperature=0.0, max_new_tokens=30)
    for prompt, ours in zip(PROMPTS, rollouts.completion_ids, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        theirs = model.generate(ids, do_sample=False, max_new_tokens=30, attention_mask=torch.ones_like(ids))
        assert ours == theirs[0, ids.shape[1] :].tolist()


def test_samples_do_not_depend_on_the_batch(tiny):
    model, tokenizer = tiny
    at_once = generate(model, tokenizer, PROMPTS, n=4, max_new_tokens=30, seed=5)
    one_by_one = generate(model, tokenizer, PROMPTS, n=4, max_new_tokens=30, seed=5, batch_size=4)
    assert at_once.completion_ids == one_by_one.completion_ids
    # a batch smaller than n divides the samples of one problem: memory holds that many at most
    divided = generate(model, tokenizer, PROMPTS, n=4, max_new_tokens=30, seed=5, batch_size=3)
    assert at_once.completion_ids == divided.completion_ids
    assert at_once.completion_ids != generate(model, tokenizer, PROMPTS, n=4, max_new_tokens=30, seed=6).completion_ids


def test_a_long_prompt_does_not_widen_the_batch_of_short_ones(tiny):
    model, tokenizer = tiny
    prompts = [PROMPTS[0], "# Question\n\n" + "b=3*4;" * 40 + "b=?\n\n# Solution\n\n", PROMPTS[1]]
    read: list[torch.Size] = []
    hook = model.model.layers[0].mlp.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].shape[:2]))
    together = generate(model, tokenizer, prompts, n=2, max_new_tokens=20, seed=3)
    hook.remove()
    short, long, other = (len(ids) for ids in together.prompt_ids[::2])
    assert [shape for shape in read if shape[1] > 1] == [(2, max(short, other)), (1, long)]
    alone = [
        generate(model, tokenizer, [p], n=2, max_new_tokens=20, seed=3, first_row=2 * i) for i, p in enumerate(prompts)
    ]
    assert together.completion_ids == [ids for one in alone for ids in one.completion_ids]


def test_batches_are_of_similar_lengths():
    """By hand: 20 new tokens; nine rows of 30 places and one of 220 would fill 490 of 2,200 places."""

    def sizes(lengths, most=16, start=()):
        found = similar_lengths([[*start, *range(1000 + i, 1000 + i + n)] for i, n in enumerate(lengths)], most, 20)
        assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
        return [[lengths[i] for i in batch] for batch in found]

    assert sizes([10] * 4 + [200] + [10] * 5) == [[10] * 9, [200]]
    assert sizes([10] * 9 + [70]) == [[10] * 9 + [70]]  # 64 tokens or less are not worth a batch
    assert sizes([100] * 9 + [165]) == [[100] * 9, [165]]  # 1,265 of 1,850
    assert sizes([200, 150, 100]) == [[100, 150], [200]]  # 510 of 660
    assert sizes([200, 150, 120]) == [[120, 150, 200]]  # 530 of 660
    assert sizes([10] * 5, most=2) == [[10, 10], [10, 10], [10]]
    assert sizes([10] * 9 + [200], start=range(900)) == [[10] * 9, [200]]  # what all begin with is read once
    assert sizes([]) == []


def test_a_completion_counts_as_the_share_of_its_tokens_until_it_ends(tiny):
    """The rows of a batch end together: counted by ends, 80 solutions of a real model took "hours" at the first."""
    model, tokenizer = tiny
    counts: list[int] = []
    rollouts = generate(
        model, tokenizer, PROMPTS, n=16, temperature=1.5, max_new_tokens=60, seed=2, on_batch=counts.append
    )
    lengths = [len(ids) for ids in rollouts.completion_ids]
    assert len(set(lengths)) > 5 and 60 in lengths
    worth = [0, *(math.floor(sum(1 if length <= t else t / 60 for length in lengths) + 1e-9) for t in range(1, 61))]
    assert counts == [b - a for a, b in itertools.pairwise(worth) if b > a]
    assert sum(counts) == len(lengths) and worth[12] > sum(length <= 12 for length in lengths)


def test_rows_that_finish_early_are_cut_behind_eos(tiny):
    model, tokenizer = tiny
    rollouts = generate(model, tokenizer, PROMPTS, n=32, temperature=1.5, max_new_tokens=60, seed=2)
    eos = tokenizer.eos_token_id
    assert any(rollouts.finished) and not all(rollouts.finished)
    for ids, done, text in zip(rollouts.completion_ids, rollouts.finished, rollouts.texts, strict=True):
        assert (eos in ids) == done and eos not in ids[:-1]
        assert tokenizer.eos_token not in text
        assert done or len(ids) == 60


def test_sampling_follows_the_distribution(tiny):
    model, tokenizer = tiny
    rollouts = generate(model, tokenizer, PROMPTS[:1], n=4000, max_new_tokens=1, seed=3, batch_size=4000)
    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([row[0] for row in rollouts.completion_ids]), minlength=len(expected))
    # the standard error of a share is at most 0.5 / sqrt(4000) = 0.008
    assert torch.allclose(counts / 4000, expected, atol=0.03)


def test_top_k_keeps_to_the_k_likeliest(tiny):
    model, tokenizer = tiny
    rollouts = generate(model, tokenizer, PROMPTS[:1], n=200, top_k=2, max_new_tokens=1, seed=3)
    assert len({row[0] for row in rollouts.completion_ids}) == 2


@pytest.mark.parametrize("wrong", [{"n": 0}, {"temperature": -1.0}, {"max_new_tokens": 0}, {"top_k": -1}])
def test_settings_out_of_range(tiny, wrong):
    with pytest.raises(ValueError, match="at least"):
        generate(*tiny, PROMPTS, **wrong)
