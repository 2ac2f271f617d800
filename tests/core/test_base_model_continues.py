"""A base model does not stop after a solution: it goes on with the next question, as its exemplars do."""

from __future__ import annotations

import pytest
import torch

from rlhf_e2h.prompts import MINERVA, SECTIONS, TextFormat, few_shot
from rlhf_e2h.samples.bank import Decoding, sample
from rlhf_e2h.training.models import ModelShape, Policy, new_llama

SOLVED = ("1+1", "1+1=2\n\n# Answer\n\n2")
SHAPE = ModelShape(hidden=48, layers=2, intermediate=96, heads=2, max_positions=512)


def parrot(text_format: TextFormat) -> Policy:
    """A small model that has learnt nothing but a row of exemplars, which never ends."""
    torch.manual_seed(0)
    model, tokenizer = new_llama(SHAPE, "byte", 0)
    text = few_shot([SOLVED] * 12, "\n\n", text_format)
    ids = torch.tensor([tokenizer(text)["input_ids"][:400]])
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        loss = model(input_ids=ids, labels=ids).loss
        if loss < 0.02:
            break
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return Policy(model.eval(), tokenizer, few_shot([SOLVED], "\n\n", text_format), text_format)


@pytest.mark.parametrize("text_format", [SECTIONS, MINERVA], ids=lambda one: one.name)
def test_its_answer_is_found(text_format: TextFormat) -> None:
    policy = parrot(text_format)
    decoding = Decoding(n=1, temperature=0.0, max_new_tokens=160)
    [row] = sample(policy, [{"problem_id": "p", "problem": "1+1"}], decoding, seed=0)
    assert (row["text"], row["answer"], row["finished"]) == (SOLVED[1], "2", True)
