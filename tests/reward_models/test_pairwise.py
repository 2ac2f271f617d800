"""The sign of the Bradley-Terry loss: chosen solutions must end with the higher reward."""

import json
import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from reward_models.contract import StepContract
from reward_models.export import export_sequence_classification
from reward_models.pairwise import Pair, bradley_terry_loss, train_pairwise
from reward_models.score import Scorer
from reward_models.settings import PairwiseSettings


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
    train_pairwise(base, pairs, tmp_path, PairwiseSettings(learning_rate=3e-3, num_train_epochs=4, batch_size=16))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = "# Question\n\nWhat is 3?\n\n# Solution\n\n"
    texts = [prompt + text for text in (pairs[0].chosen, pairs[0].rejected)]
    with torch.no_grad():
        chosen, rejected = (model(**tokenizer(text, return_tensors="pt")).logits[0, 0].item() for text in texts)
    assert chosen > rejected + 1
    scorer = Scorer.from_pretrained(tmp_path)
    found = scorer.score("What is 3?", [text.split("\n\n") for text in (pairs[0].chosen, pairs[0].rejected)])
    assert [score.logits[-1] for score in found] == pytest.approx([chosen, rejected], abs=1e-4)
    report = json.loads((tmp_path / "training.json").read_text())
    assert (report["kind"], report["pairs"], report["settings"]["batch_size"]) == ("pairwise", 64, 16)
    assert "64 pairs" in (tmp_path / "README.md").read_text()
    assert export_sequence_classification(tmp_path, tmp_path / "export") < 1e-4


def test_useless_pairs_are_refused(base, tmp_path):
    with pytest.raises(ValueError, match="equal solutions"):
        train_pairwise(base, [Pair("q", "a", "a")], tmp_path)
    with pytest.raises(ValueError, match="0 pairs"):
        train_pairwise(base, [], tmp_path)
    with pytest.raises(ValueError, match="kind 'prm' with aggregation 'min'"):
        train_pairwise(base, [Pair("q", "a", "b")], tmp_path, contract=StepContract("prm"))
