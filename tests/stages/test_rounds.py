"""Iterative DPO, ReST-EM and GRPO/RLOO through the real runner, in miniature."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from reward_models.contract import StepContract
from reward_models.model import head_of, new_model
from reward_models.records import read_jsonl
from rlhf_e2h.data.firewall import FirewallError
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.runs import run_stage
from rlhf_e2h.runner.store import ASSETS, Store
from rlhf_e2h.samples import rounds as rounds_module
from rlhf_e2h.samples.rounds import problems_of_round
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy

PREPARE = {
    "stage": "prepare",
    "source": "procedural",
    "train_per_level": [6] * 5,
    "validation_per_level": [1] * 5,
    "test_per_level": [1] * 5,
}
TRAINING = {"learning_rate": 1e-3, "warmup_ratio": 0.0, "batch_size": 8, "micro_batch_size": 8, "max_length": 144}
DECODING = {"n": 6, "max_new_tokens": 80, "temperature": 1.5}  # one token of 102 ends a text
DPO = {"stage": "dpo", "problems": 8, "rounds": 2, "margin": 0.0, "margin_unlabelled": 0.0}
# a model of no training writes no answers, so here the shipped one samples
REST = {"stage": "rest", "policy": "asset:base", "problems": 8, "rounds": 2, "threshold": 0.0, "max_kept": 2}
REST |= {"decoding": {"n": 2, "max_new_tokens": 90}}
GRPO = {"stage": "grpo", "problems": 4, "generations": 4, "max_new_tokens": 12, "beta": 0.1}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a tiny policy that ends its texts now and then, and of a tiny reward model with a random head."""
    folder = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)
    shape = ModelShape(hidden=16, layers=1, intermediate=32, heads=2, max_positions=160)
    policy, tokenizer = new_llama(shape, "procedural", seed=0)
    save_policy(policy, tokenizer, folder / "policy")
    reward = new_model(folder / "policy", StepContract("prm"))
    torch.nn.init.normal_(head_of(reward).weight, generator=torch.Generator().manual_seed(1))
    reward.save_pretrained(folder / "prm")
    tokenizer.save_pretrained(folder / "prm")
    return folder


def run(tmp_path, models, stage, name=None, runs=None, **settings):
    """(folder of the finished stage, its completion record); prepare is run once for all."""
    name = name or stage["stage"]
    recipe = tmp_path / "recipe"
    recipe.mkdir(parents=True, exist_ok=True)
    config = {"policy": str(models / "policy"), "data": "@prepare", "reward_model": str(models / "prm")}
    config |= {"training": TRAINING, **stage, **settings}
    if stage["stage"] != "grpo":
        config = {"decoding": DECODING, **config}
    (recipe / "recipe.yaml").write_text(yaml.safe_dump({"name": "mini", "runs": str(runs or models / "runs")}))
    (recipe / "1_prepare.yaml").write_text(yaml.safe_dump(PREPARE))
    (recipe / f"2_{name}.yaml").write_text(yaml.safe_dump(config))
    try:
        store = Store(load_recipe(recipe))
        for spec in store.recipe.stages.values():
            if not store.finished(spec, 0):
                folder = run_stage(store, spec, 0)
    finally:
        (recipe / f"2_{name}.yaml").unlink()
    return folder, json.loads((folder / "done.json").read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


def logged(folder):
    """metrics.jsonl without what the clock says."""
    rows = read_jsonl(folder / "metrics.jsonl")
    clock = ("runtime", "_per_second", "step_time")
    return [{name: value for name, value in row.items() if not name.endswith(clock)} for row in rows]


def differ(a, b):
    return any(not torch.equal(a[name], b[name]) for name in a)


def test_problems_of_rounds_are_spread_and_change():
    pool = [{"problem_id": i} for i in range(10)]
    assert [p["problem_id"] for p in problems_of_round(pool, 3, 0)] == [0, 3, 6]
    assert [p["problem_id"] for p in problems_of_round(pool, 3, 2)] == [2, 5, 8]
    assert [p["problem_id"] for p in problems_of_round(pool, 3, 4)] == [4, 7, 0]
    assert problems_of_round(pool, None, 1) == problems_of_round(pool, 10, 1) == pool


@pytest.mark.parametrize(("stage", "method"), [(DPO, "keep"), (REST, "judged")])
def test_a_killed_round_goes_on_to_the_same_weights(tmp_path, models, monkeypatch, stage, method):
    settings = {"lora": {"rank": 2}} if stage is DPO else {}
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
        (GRPO, {"generations": 3}, "no multiple of generations 3"),
        (GRPO, {"generations": 1}, "at least 2"),
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
