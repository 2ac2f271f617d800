"""The sampler in a Trainer's hands: row order by epoch, decisions of Skill-It and DoReMi, resumption; no model."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_e2h.runner.store import stage_seed
from rlhf_e2h.runner.traits import STAGES
from rlhf_e2h.stages import sft
from rlhf_e2h.training.mixing import Mixing, MixtureSettings, RowOrder, build_sampler, weight_metrics
from rlhf_e2h.training.sft_plan import plan_training

PROBLEMS = [{"level": 1 + i % 3, "subject": "x"} for i in range(30)]


def _mixing(folder, losses, **settings):
    mixture = MixtureSettings(update_every=2, **settings)
    sampler = build_sampler(mixture, PROBLEMS, batch=4, steps=12, seed=0)
    logged = []
    run = SimpleNamespace(scratch=folder, log=lambda values, step: logged.append((step, values)))
    reference = [1.0, 1.0, 1.0] if mixture.weights == "doremi" else None
    return Mixing(mixture, sampler, run, losses, reference), logged


def _state(step):
    return SimpleNamespace(global_step=step, is_world_process_zero=True)


def test_row_order_goes_on_from_epoch_to_epoch():
    sampler = build_sampler(MixtureSettings(weights="uniform"), PROBLEMS, batch=4, steps=16, seed=0)
    order = RowOrder(sampler, rows=30)
    first = list(order)
    assert len(first) == len(order) == 30  # seven batches of 4 and one of 2
    assert first[:4] == sampler.indices(0)
    order.set_epoch(1)
    second = list(order)
    assert second[:4] == sampler.indices(8)
    assert first != second


def test_staged_rows_come_in_their_time():
    mixture = MixtureSettings(weights="uniform", curriculum="staged")
    order = RowOrder(build_sampler(mixture, PROBLEMS, batch=2, steps=15, seed=0), rows=30)
    levels = [PROBLEMS[i]["level"] for i in order]
    assert set(levels[:10]) == {1}
    assert max(levels[10:20]) == 2
    assert max(levels[20:]) == 3


def test_skill_it_follows_the_losses_one_batch_late(tmp_path):
    mixing, logged = _mixing(tmp_path, lambda model: [1.0, 1.0, 1.0], weights="skill_it", graph={"1": ["2", "3"]})
    start = mixing.sampler.weights(0)
    assert start[0] > start[1] == start[2]
    mixing.on_step_end(None, _state(1), None)
    assert not mixing.history
    mixing.on_step_end(None, _state(2), None)
    # losses over those of the first round are all 1, so the weights are those of the start
    assert mixing.sampler.decisions[0][0] == 3
    assert mixing.sampler.weights(3) == pytest.approx(start)
    assert logged[0] == (2, {"mixture/loss_1": 1.0, "mixture/loss_2": 1.0, "mixture/loss_3": 1.0})
    assert sum(weight_metrics(mixing.sampler, 3).values()) == pytest.approx(1)


def test_doremi_raises_what_is_worse_than_the_reference(tmp_path):
    mixing, _ = _mixing(tmp_path, lambda model: [1.0, 2.0, 0.5], weights="doremi", eta=1.0)
    for step in (2, 4):
        mixing.on_step_end(None, _state(step), None)
    # excess (0, 1, 0): from uniform by size, alpha_2 = e / (e + 2), then e^2 / (e^2 + 2)
    once, twice = mixing.history[0]["weights"][1], mixing.history[1]["weights"][1]
    assert once == pytest.approx(0.576117, abs=1e-4)
    assert twice == pytest.approx(0.786986, abs=1e-4)
    assert mixing.result()["2"] == pytest.approx((once + twice) / 2)


def test_a_killed_run_goes_on_with_the_same_decisions(tmp_path):
    losses = {2: [1.0, 2.0, 3.0], 4: [0.5, 2.0, 1.0], 6: [0.2, 1.0, 1.0]}
    step = 0

    def measure(model):
        return losses[step]

    whole, _ = _mixing(tmp_path, measure, weights="skill_it")
    for step in (2, 4, 6):
        whole.on_step_end(None, _state(step), None)
    resumed, _ = _mixing(tmp_path, measure, weights="skill_it")
    resumed.on_train_begin(None, _state(4), None)  # the file holds the decision of step 6 too: it is forgotten
    assert [row["step"] for row in resumed.history] == [2, 4]
    assert resumed.sampler.decisions == whole.sampler.decisions[:2]
    for step in (6,):
        resumed.on_step_end(None, _state(step), None)
    assert resumed.sampler.state_dict() == whole.sampler.state_dict()
    assert [resumed.sampler.indices(t) for t in range(4, 12)] == [whole.sampler.indices(t) for t in range(4, 12)]


def test_the_shares_of_another_stage_are_those_of_every_batch(tmp_path):
    (tmp_path / "mixture.json").write_text('{"1": 0.7, "2": 0.3, "3": 0.0}')
    config = sft.Config("policy", "data", shares=str(tmp_path), mixture=MixtureSettings())
    config.training.max_steps = 5
    run = SimpleNamespace(scratch=tmp_path, path=Path, seed=0)
    rows = [{"prompt": str(i), "completion": "x"} for i in range(30)]
    plan = plan_training(config, run, None, PROBLEMS, rows)
    assert plan.mixing.result() == pytest.approx({"1": 0.7, "2": 0.3, "3": 0.0})
    assert {PROBLEMS[i]["level"] for i in plan.order} == {1, 2}
    for mixture in (None, MixtureSettings(weights="doremi")):
        with pytest.raises(ValueError, match="none of its own"):
            sft.Config("policy", "data", shares="@proxy", mixture=mixture)


def test_random_weights_of_each_seed():
    spec = SimpleNamespace(traits=STAGES["pretrain"], config=SimpleNamespace(each_seed=False))
    assert stage_seed(spec, 2) == 0
    spec.config.each_seed = True
    assert stage_seed(spec, 2) == 2
