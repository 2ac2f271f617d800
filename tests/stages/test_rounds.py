"""Iterative DPO, ReST-EM and GRPO/RLOO through the real runner, in miniature."""

import json

import pytest
from mini_rounds import DPO, GRPO, REST, TRAINING, differ, make_models, run, weights

from reward_models.records import read_jsonl
from rlhf_e2h.data.firewall import FirewallError
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.samples import rounds as rounds_module
from rlhf_e2h.samples.rounds import problems_of_round
from rlhf_e2h.tools.dashboards import PANELS


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


def logged(folder):
    """metrics.jsonl without what the clock says."""
    rows = read_jsonl(folder / "metrics.jsonl")
    clock = ("runtime", "_per_second", "step_time")
    return [{name: value for name, value in row.items() if not name.endswith(clock)} for row in rows]


def test_problems_of_rounds_are_spread_and_change():
    pool = [{"problem_id": i} for i in range(10)]
    assert [p["problem_id"] for p in problems_of_round(pool, 3, 0)] == [0, 3, 6]
    assert [p["problem_id"] for p in problems_of_round(pool, 3, 2)] == [2, 5, 8]
    assert [p["problem_id"] for p in problems_of_round(pool, 3, 4)] == [4, 7, 0]
    assert problems_of_round(pool, None, 1) == problems_of_round(pool, 10, 1) == pool


@pytest.mark.parametrize(("stage", "method"), [(DPO, "keep"), (REST, "judged")])
def test_a_killed_round_goes_on_to_the_same_weights(tmp_path, models, monkeypatch, stage, method):
    settings = {"training": {**TRAINING, "lora": {"r": 2}}} if stage is DPO else {}
    whole, done = run(tmp_path, models, stage, **settings)
    assert {record["file"] for record in done["labels_read"]} == {"labels_easy.jsonl"}
    start = ASSETS / "base" if stage is REST else models / "policy"
    assert done["results"]["rounds"] == 2 and differ(weights(start), weights(whole))

    original = getattr(rounds_module.Rounds, method)

    def killed_in_the_second_round(self, number, *args):
        if number == 1:
            raise KeyboardInterrupt
        return original(self, number, *args)

    with monkeypatch.context() as patch:
        patch.setattr(rounds_module.Rounds, method, killed_in_the_second_round)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, models, stage, runs=tmp_path / "runs", **settings)
    killed, _ = run(tmp_path, models, stage, runs=tmp_path / "runs", **settings)
    assert not differ(weights(whole), weights(killed))
    again = json.loads((killed / "done.json").read_text())
    assert [again[name] for name in ("tokens", "flops")] == [done[name] for name in ("tokens", "flops")]
    assert logged(killed) == logged(whole)
    record = "pairs" if stage is DPO else "kept"
    for number in range(2):
        assert read_jsonl(whole / f"{record}_{number}.jsonl") == read_jsonl(killed / f"{record}_{number}.jsonl")


@pytest.mark.parametrize("loss", ["cdpo", "rpo", "sigmoid_norm"])
def test_dpo_losses_train(tmp_path, models, loss):
    settings = {"label_smoothing": 0.1} if loss == "cdpo" else {}
    folder, done = run(tmp_path, models, DPO, loss=loss, rounds=1, **settings)
    assert differ(weights(models / "policy"), weights(folder))
    logged = [row for row in read_jsonl(folder / "metrics.jsonl") if "train/rewards/margins" in row]
    assert done["results"]["dpo/pairs"] >= 8 and (logged or done["results"]["dpo/pairs"] < 80)


def test_rest_can_start_each_round_from_another_base(tmp_path, models):
    with pytest.raises(ConfigError, match="go together"):
        run(tmp_path, models, REST, start_from="base")
    folder, done = run(tmp_path, models, REST, start_from="base", base=str(models / "policy"), rounds=1)
    start, end = weights(models / "policy"), weights(folder)
    assert done["results"]["rest/kept"] > 0 and start.keys() == end.keys() and differ(start, end)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_grpo_and_rloo_train_on_the_rewards_of_ppo(tmp_path, models, algorithm):
    terms = {"length_coef": 0.01, "max_tokens": 4}
    folder, done = run(tmp_path, models, GRPO, algorithm=algorithm, terms=terms)
    assert {record["file"] for record in done["labels_read"]} == {"labels_easy.jsonl"}
    assert differ(weights(models / "policy"), weights(folder))
    metrics = [row for row in read_jsonl(folder / "metrics.jsonl") if "train/reward" in row]
    assert len(metrics) == 2  # 4 prompts x 4 completions, 8 an update
    names = set().union(*metrics)
    assert {"train/kl", "train/rollout/unfinished", "train/reward/length"} <= names
    assert {metric for part in PANELS["grpo"].values() for metric in part} <= names  # of wandb's panels
    assert not any("accuracy_level_4" in name or "accuracy_level_5" in name for name in names)


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        (DPO, {"loss": "cdpo"}, "needs label_smoothing between 0 and 0.5"),
        (DPO, {"label_smoothing": 0.1}, "set loss: cdpo"),
        (DPO, {"loss": "kto"}, "allowed: sigmoid"),
        (DPO, {"rounds": 0}, "must be at least 1"),
        (DPO, {"margin": 3.0, "margin_unlabelled": 3.0}, "no pair reaches the margin"),
        (REST, {"threshold": 1.1, "levels": [5], "problems": 2}, "keeps no solution"),
        (GRPO, {"num_generations": 3}, "not a multiple of num_generations 3"),
        (GRPO, {"num_generations": 1}, "at least 2"),
        (GRPO, {"reward_model": None, "outcome": "none"}, "nothing gives a reward"),
        (GRPO, {"max_new_tokens": 120}, "lower max_new_tokens"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, models, stage, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, models, stage, **settings)


def test_hard_labels_are_for_grpo_baselines_that_say_so(tmp_path, models):
    with pytest.raises(FirewallError, match="may not read the sealed labels"):
        run(tmp_path, models, GRPO, outcome="full")
