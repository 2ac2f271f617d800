"""The sign of the Bradley-Terry loss: chosen solutions must end with the higher reward."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_models.pairwise import Pair, bradley_terry_loss, train_pairwise


def test_loss_by_hand():
    loss = bradley_terry_loss(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2)
    chosen = torch.tensor([0.0], requires_grad=True)
    bradley_terry_loss(chosen, torch.tensor([0.0])).backward()
    assert chosen.grad.item() == -0.5  # descent raises the chosen reward
    with pytest.raises(ValueError, match="shapes differ"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(2, 1))


def test_trained_model_prefers_the_chosen(base, tmp_path):
    pairs = [Pair(f"What is {n % 9}?", "good step.\n\ngood step.", "good step.\n\nbad step.") for n in range(64)]
    train_pairwise(base, pairs, tmp_path, learning_rate=3e-3, epochs=4, batch_size=16)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = "# Question\n\nWhat is 3?\n\n# Solution\n\n"
    texts = [prompt + text + tokenizer.eos_token for text in (pairs[0].chosen, pairs[0].rejected)]
    with torch.no_grad():
        chosen, rejected = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits[:, 0].tolist()
    assert chosen > rejected + 1


def test_useless_pairs_are_refused(base, tmp_path):
    with pytest.raises(ValueError, match="equal solutions"):
        train_pairwise(base, [Pair("q", "a", "a")], tmp_path)
    with pytest.raises(ValueError, match="0 pairs"):
        train_pairwise(base, [], tmp_path)
