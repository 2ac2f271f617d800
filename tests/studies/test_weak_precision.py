"""Students of the weak-to-strong study in both precisions: what scores after training is what was saved."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reward_models.encode import encode
from reward_models.model import load_tokenizer
from reward_models.score import Scorer
from reward_models.settings import LoraSettings
from rlhf_e2h.studies.weak_to_strong.soft_rows import soft_rows
from rlhf_e2h.studies.weak_to_strong.students import FitSettings, LossSettings, fit_soft, predict, soft_contract
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy


@pytest.fixture
def base(tmp_path):
    shape = ModelShape(hidden=16, layers=2, intermediate=32, heads=2, max_positions=160)
    save_policy(*new_llama(shape, "procedural", seed=0), tmp_path / "base")
    return tmp_path / "base"


def soft_items():
    items = [(f"{a}+{b}", [f"{a}+{b}={a + b}", f"# Answer\n\n{a + b}"]) for a in range(4) for b in range(4)]
    return items, [np.array([0.9 if index % 2 else 0.2]) for index in range(len(items))]


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("bf16", [True, False])
def test_a_student_is_trained_chosen_and_scored(base, tmp_path, bf16, lora):
    items, labels = soft_items()
    settings = FitSettings(
        learning_rate=1e-2, num_train_epochs=2, batch_size=8, bf16=bf16, eval_steps=1, lora=LoraSettings(r=lora)
    )
    seen = []
    student = fit_soft(
        base, items, labels, tmp_path / "out", settings, 0, validation=(items, labels),
        on_log=lambda row: seen.append(dict(row)),
    )  # fmt: skip
    scores = predict(student, items)
    again = predict(Scorer.from_pretrained(tmp_path / "out", max_length=1024, overlong="skip"), items)
    assert np.isfinite(scores).all() and len(set(scores)) > 1 and seen
    assert np.array_equal(scores, again)
    assert (tmp_path / "out" / "adapter").is_dir() == bool(lora)


@pytest.mark.parametrize("loss", ["xent", "window", "kl"])
def test_solutions_of_a_problem_read_once_teach_what_they_teach_read_apart(base, tmp_path, loss):
    """One update of all items: the sum over rows is the same, whatever their order."""
    items = [(problem, [f"{problem}={value}"]) for problem in ("1+1", "1+2") for value in range(4)]
    labels = [np.array([0.1 * place]) for place in range(8)]
    found = {}
    for shared in (False, True):
        settings = FitSettings(
            learning_rate=1.0, max_steps=1, batch_size=8, warmup_steps=0, share_prefixes=shared, extra={"optim": "sgd"}
        )
        fit_soft(base, items, labels, tmp_path / str(shared), settings, 0, LossSettings(loss, radius=0.5))
        found[shared] = load_file(tmp_path / str(shared) / "model.safetensors")
    # plain gradient descent moves the head, which starts at zero, by the gradient itself; below it there is none yet
    moved = found[True]["score.weight"]
    assert moved.abs().max() > 1e-2 and torch.allclose(moved, found[False]["score.weight"], rtol=1e-3, atol=1e-5)


def test_solutions_that_are_too_long_are_said(base, caplog):
    tokenizer, contract = load_tokenizer(base), soft_contract("orm", None)
    items = [("1+1", ["1+1=2"] * (8 if place == 0 else 1)) for place in range(4)]
    lengths = [len(row.ids) for row in encode(tokenizer, contract, [p for p, _ in items], [s for _, s in items])]
    rows = soft_rows(tokenizer, contract, items, [np.array([0.5])] * 4, lengths[0] - 1)
    assert rows.sources == [1, 2, 3] and "1 of 4 solutions are left out" in caplog.text
