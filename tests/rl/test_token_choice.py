"""Tokens drawn under filters: kept tokens against transformers' own filters, probabilities against the definition."""

import pytest
import torch
from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rlhf_e2h.rl import token_choice
from rlhf_e2h.rl.token_choice import choose_tokens


def peaked(rows, vocabulary, seed=0):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3


def expected(logits, temperature, filters):
    """The distribution by transformers: temperature, then its filters one after the other."""
    logits = logits / temperature
    for one in filters:
        logits = one(None, logits)
    return logits.log_softmax(-1)


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        ({"top_k": 5}, [TopKLogitsWarper(5)]),
        ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),
        ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
        ({"top_k": 40, "top_p": 0.6}, [TopKLogitsWarper(40), TopPLogitsWarper(0.6)]),
        ({"min_p": 0.1, "top_k": 7, "top_p": 0.9}, [MinPLogitsWarper(0.1), TopKLogitsWarper(7), TopPLogitsWarper(0.9)]),
        ({}, []),
    ],
)
@pytest.mark.parametrize("vocabulary", [300, 20_000])
def test_every_draw_is_the_inverse_of_the_filtered_distribution(options, filters, vocabulary):
    logits = peaked(6, vocabulary)
    reference = expected(logits, 0.8, filters)
    cumulative = reference.double().exp().cumsum(-1)
    for number in (0.0, 0.1, 0.37, 0.5, 0.93, 1 - 2**-53):
        uniform = torch.full((6,), number, dtype=torch.float64)
        token, logprob = choose_tokens(logits, uniform, 0.8, **options)
        torch.testing.assert_close(logprob, reference.gather(-1, token[:, None]).squeeze(-1), atol=2e-5, rtol=0)
        # the token is the one in whose part of the cumulative distribution the number falls
        after = cumulative.gather(-1, token[:, None]).squeeze(-1)
        before = after - reference.double().exp().gather(-1, token[:, None]).squeeze(-1)
        assert (before - 1e-5 <= number).all() and (number <= after + 1e-5).all()


def test_large_vocabularies_are_sampled_as_small_ones(monkeypatch):
    logits = peaked(64, 9000)
    uniform = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    large = choose_tokens(logits, uniform)
    monkeypatch.setattr(token_choice, "SMALL", 10_000)
    small = choose_tokens(logits, uniform)
    assert torch.equal(large[0], small[0])
    torch.testing.assert_close(large[1], small[1], atol=1e-5, rtol=0)


def test_a_nucleus_larger_than_the_first_candidates():
    logits = torch.zeros(2, 9000)  # flat: the nucleus of .5 has 4,500 tokens
    logits[1, 3] = 20.0  # one token has nearly everything
    token, logprob = choose_tokens(logits, torch.tensor([0.9, 0.9], dtype=torch.float64), top_p=0.5)
    assert logprob.tolist() == pytest.approx([-(torch.tensor(4500.0).log().item()), 0.0], abs=1e-4)
    assert token[1] == 3
