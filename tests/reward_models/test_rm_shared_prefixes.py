"""Rows that begin alike, read once: the same loss and gradient as read apart, from fewer tokens."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import words_task
from safetensors.torch import load_file
from test_rm_train import FAST
from transformers import BertConfig, BertForTokenClassification

from reward_models import StepContract, Stepwise
from reward_models.dataset import build_rows
from reward_models.model import load_tokenizer, new_model
from reward_models.score import Scorer
from reward_models.shared_prefixes import PrefixSampler, merged, reads_trees, token_tree
from reward_models.targets import weighted_bce_sum
from reward_models.train import train


def test_a_tree_holds_each_shared_token_once():
    tree = token_tree([[7, 8, 9], [7, 8, 5, 9], [7, 8, 9], [6]])
    assert tree.ids.tolist() == [7, 8, 9, 5, 9, 6]
    assert tree.parents.tolist() == [-1, 0, 1, 1, 3, -1]
    assert tree.positions.tolist() == [0, 1, 2, 2, 3, 0]
    assert [nodes.tolist() for nodes in tree.nodes] == [[0, 1, 2], [0, 1, 3, 4], [0, 1, 2], [5]]
    assert tree.seen().astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_labels_of_a_shared_token_are_averaged_by_weight():
    labels = [np.array([-100, 1, 1], np.float32), np.array([-100, 0, -100], np.float32)]
    batch = merged([(np.array([1, 2, 3]), labels[0], 1.0), (np.array([1, 2, 4]), labels[1], 3.0)], -100)
    assert batch["labels"].tolist() == [[-100, 0.25, 1, -100]]
    assert batch["weights"].tolist() == [[0, 4, 1, 0]]


@pytest.mark.parametrize("loss_on", ["every_token", "step_end"])
def test_loss_and_gradient_are_those_of_rows_read_apart(base, loss_on):
    torch.manual_seed(0)
    records = [*words_task(12, 3), Stepwise("What is 1?", ["good step.", "bad step."], [0, 1], 0, {"weight": 2.5})]
    rows, _ = build_rows(records, load_tokenizer(base), StepContract("prm"), loss_on=loss_on, max_length=99)
    model = new_model(base, StepContract("prm"))
    torch.nn.init.normal_(model.score.weight)  # a head of zeros has no gradient below it
    found = []
    for collate in (partial(rows.collate, causal=True), rows.merge):
        batch = collate(range(len(rows)))
        labels, weights = batch.pop("labels"), batch.pop("weights")
        loss = weighted_bce_sum(model(**batch).logits.squeeze(-1), labels, weights)
        model.zero_grad()
        loss.backward()
        found.append((loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None], batch))
    (apart, grads, plain), (together, others, tree) = found
    assert together == pytest.approx(apart, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(grads, others, strict=True))
    assert max(grad.abs().max() for grad in grads) > 1e-2
    assert tree["input_ids"].numel() < 0.5 * plain["input_ids"].numel()


@pytest.mark.parametrize("max_tokens", [30, 2048])
def test_scores_from_trees_are_those_of_each_solution_alone(base, max_tokens):
    torch.manual_seed(0)
    contract, tokenizer = StepContract("prm"), load_tokenizer(base)
    model = new_model(base, contract)
    torch.nn.init.normal_(model.score.weight)
    items = [(record.problem, record.steps) for record in words_task(12, 3)]
    items += [items[0], ("What is 1?", ["good step. " * 40])]  # a repeated one, and one longer than a small tree
    seen = []
    plain = Scorer(model, tokenizer, contract)
    trees = Scorer(model, tokenizer, contract, share_prefixes=True, max_tokens_per_batch=max_tokens)
    found = list(trees.score_stream(items, on_scored=seen.append))
    expected = list(plain.score_stream(items))
    assert sum(seen) == len(items) and (len(seen) > 5) == (max_tokens == 30)
    for one, other in zip(found, expected, strict=True):
        assert np.allclose(one.logits, other.logits, atol=1e-4) and one.tokens == other.tokens
    assert np.ptp(np.concatenate([one.logits for one in found])) > 0.1


def test_training_ends_with_the_same_weights_from_fewer_tokens(base, tmp_path):
    records, results = words_task(48, 1), {}
    settings = replace(FAST, num_train_epochs=1, batch_size=16, per_device_train_batch_size=8)
    rows, _ = build_rows(records, load_tokenizer(base), StepContract("prm"), loss_on=settings.loss_on, max_length=99)

    def order(_):
        return PrefixSampler(rows.ids, 8, 0, lambda: 0)

    for shared in (False, True):
        own = None if shared else order
        changed = replace(settings, share_prefixes=shared)
        results[shared] = train(base, records, "prm", tmp_path / str(shared), changed, order=own)
    a, b = (load_file(tmp_path / str(shared) / "model.safetensors") for shared in (False, True))
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)
    assert results[True]["train_loss"] == pytest.approx(results[False]["train_loss"], rel=1e-3)
    assert results[True]["tokens"] < 0.5 * results[False]["tokens"]


def test_the_order_keeps_neighbours_together_and_changes_with_the_epoch():
    rows = [np.array(ids, np.int32) for ids in ([2, 1], [1, 5], [300, 1], [1, 6], [2, 2], [300, 2], [1, 5, 1])]
    epochs = [list(PrefixSampler(rows, 2, 0, lambda epoch=epoch: epoch)) for epoch in range(8)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert all({order[0], order[1]} in ({1, 6}, {3, 0}, {4, 2}) for order in epochs)
    assert all(order[-1] == 5 for order in epochs)
    assert len({tuple(order) for order in epochs}) > 1
    assert PrefixSampler(rows, 7, 0, lambda: 0).tokens == 10  # 1 5 1 6, 2 1 2, 300 1 2


def test_models_that_do_not_follow_the_mask_are_refused(base, tmp_path):
    model = new_model(base, StepContract("prm"))
    assert reads_trees(model)
    model.set_attn_implementation("eager")  # it adds the mask as it stands
    assert not reads_trees(model)
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    assert not reads_trees(BertForTokenClassification(config))
    with pytest.raises(ValueError, match="set one of them to false"):
        replace(FAST, padding_free=True, share_prefixes=True)
