"""Students of the weak-to-strong study in both precisions: what scores after training is what was saved."""

import numpy as np
import pytest

from reward_models.score import Scorer
from rlhf_e2h.studies.weak_to_strong.students import FitSettings, fit_soft, predict
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy


@pytest.mark.parametrize("bf16", [True, False])
def test_a_student_is_trained_chosen_and_scored(tmp_path, bf16):
    shape = ModelShape(hidden=16, layers=2, intermediate=32, heads=2, max_positions=160)
    save_policy(*new_llama(shape, "procedural", seed=0), tmp_path / "base")
    items = [(f"{a}+{b}", [f"{a}+{b}={a + b}", f"# Answer\n\n{a + b}"]) for a in range(4) for b in range(4)]
    labels = [np.array([0.9 if index % 2 else 0.2]) for index in range(len(items))]
    settings = FitSettings(learning_rate=1e-2, num_train_epochs=2, batch_size=8, bf16=bf16, eval_steps=1)
    seen = []
    student = fit_soft(
        tmp_path / "base", items, labels, tmp_path / "out", settings, 0, validation=(items, labels),
        on_log=lambda row: seen.append(dict(row)),
    )  # fmt: skip
    scores = predict(student, items)
    again = predict(Scorer.from_pretrained(tmp_path / "out", max_length=1024, overlong="skip"), items)
    assert np.isfinite(scores).all() and len(set(scores)) > 1 and seen
    assert np.array_equal(scores, again)
