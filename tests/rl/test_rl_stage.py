"""The `ppo` stage through the real runner, in miniature."""

import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reward_models.contract import StepContract
from reward_models.model import head_of, new_model
from reward_models.records import read_jsonl
from rlhf_e2h.config import ConfigError
from rlhf_e2h.data.firewall import FirewallError
from rlhf_e2h.models import ModelShape, new_llama, save_policy
from rlhf_e2h.recipe import load_recipe
from rlhf_e2h.runs import run_stage
from rlhf_e2h.store import Store

PREPARE = {
    "stage": "prepare",
    "source": "procedural",
    "train_per_level": [10] * 5,
    "validation_per_level": [2] * 5,
    "test_per_level": [2] * 5,
}
PPO = {
    "stage": "ppo",
    "data": "@prepare",
    "eval_every": 1,
    "eval_problems": 6,
    "ppo": {
        "steps": 2,
        "rollouts": 16,
        "minibatches": 2,
        "micro_batch": 8,
        "max_new_tokens": 12,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "checkpoint_every": 1,
    },
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a tiny policy and of a tiny reward model with a random head."""
    folder = tmp_path_factory.mktemp("models")
    torch.set_num_threads(1)
    shape = ModelShape(hidden=16, layers=1, intermediate=32, heads=2, max_positions=128)
    policy, tokenizer = new_llama(shape, "procedural", seed=0)
    save_policy(policy, tokenizer, folder / "policy")
    reward = new_model(folder / "policy", StepContract("prm"))
    torch.nn.init.normal_(head_of(reward).weight, generator=torch.Generator().manual_seed(1))
    reward.save_pretrained(folder / "prm")
    tokenizer.save_pretrained(folder / "prm")
    return folder


def run_ppo(tmp_path, models, name="ppo", runs=None, **settings):
    """(folder of the finished stage, its completion record); the prepare stage is run once for all tests"""
    recipe = tmp_path / "recipe"
    recipe.mkdir(parents=True, exist_ok=True)
    ppo = {**PPO, "policy": str(models / "policy"), "reward_model": str(models / "prm"), **settings}
    (recipe / "recipe.yaml").write_text(yaml.safe_dump({"name": "mini", "runs": str(runs or models / "runs")}))
    (recipe / "1_prepare.yaml").write_text(yaml.safe_dump(PREPARE))
    (recipe / f"2_{name}.yaml").write_text(yaml.safe_dump(ppo))
    store = Store(load_recipe(recipe))
    for spec in store.recipe.stages.values():
        if spec.name in ("prepare", name) and not store.finished(spec, 0):
            folder = run_stage(store, spec, 0)
    (recipe / f"2_{name}.yaml").unlink()
    return folder, json.loads((folder / "done.json").read_text())


def test_easy_stage_trains_and_reads_easy_labels_only(tmp_path, models):
    folder, done = run_ppo(tmp_path, models)
    assert {record["file"] for record in done["labels_read"]} == {"labels_easy.jsonl"}
    metrics = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [0, 1]
    assert done["tokens"] == sum(row["perf/total_num_tokens"] for row in metrics)
    assert done["flops"] == sum(row["perf/flops"] for row in metrics) > 0
    names = set().union(*metrics)
    assert {
        "objective/kl",
        "reward/outcome",
        "eval/accuracy_easy",
        "eval/reward_gap_level_1",
        "reward/rm_level_5",
    } <= names
    assert not {"reward/accuracy_level_4", "reward/accuracy_level_5", "eval/accuracy_level_4"} & names
    before = AutoModelForCausalLM.from_pretrained(models / "policy").state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    rollouts = read_jsonl(folder / "rollouts.jsonl", required=("text", "step_scores", "outcome", "level"))
    assert len(rollouts) == 2 * 4
    assert all(row["outcome"] is None for row in rollouts if row["level"] > 3)


def test_killed_stage_goes_on_and_ends_with_the_same_weights(tmp_path, models, monkeypatch):
    whole, _ = run_ppo(tmp_path, models, keep="best")
    shutil.copytree(models / "runs/prepare", tmp_path / "runs/prepare")

    from rlhf_e2h.stages import ppo_watcher

    original = ppo_watcher.Watcher.on_step

    def killed_in_the_second_step(self, step, metrics, rollouts):
        if step == 1:
            raise KeyboardInterrupt
        return original(self, step, metrics, rollouts)

    with monkeypatch.context() as patch:
        patch.setattr(ppo_watcher.Watcher, "on_step", killed_in_the_second_step)
        with pytest.raises(KeyboardInterrupt):
            run_ppo(tmp_path, models, runs=tmp_path / "runs", keep="best")
    killed, _ = run_ppo(tmp_path, models, runs=tmp_path / "runs", keep="best")
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [read_jsonl(folder / "metrics.jsonl") for folder in (whole, killed)]
    assert [row["objective/rlhf_reward"] for row in logs[0]] == [row["objective/rlhf_reward"] for row in logs[1]]


def test_hard_labels_reward_a_baseline_that_says_so(tmp_path, models):
    with pytest.raises(FirewallError, match="may not read the sealed labels"):
        run_ppo(tmp_path, models, outcome="full")
    settings = {"outcome": "full", "reward_model": None, "value_init": "policy", "levels": [5]}
    folder, done = run_ppo(tmp_path, models, name="ppo_dagger", **settings)
    assert "labels_sealed.jsonl" in {record["file"] for record in done["labels_read"]}
    assert "reward/accuracy_level_5" in read_jsonl(folder / "metrics.jsonl")[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"lora": {"rank": 2}, "value_init": "reward_zero_head"},
        {"lora": {"rank": 2}, "value_init": "policy", "share_base": True, "eval_every": 1, "keep": "best"},
        {"value_head_only": True, "outcome": "none", "eval_every": 0},
        {"gradient_checkpointing": True, "answer_step": False, "bf16": True, "value_init": "policy"},
    ],
)
def test_variants_run(tmp_path, models, settings):
    folder, _ = run_ppo(tmp_path, models, **settings)
    first = read_jsonl(folder / "metrics.jsonl")[0]
    assert first["objective/kl"] == pytest.approx(0.0, abs=0.2 if settings.get("bf16") else 1e-4)
    AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_model": None, "outcome": "none"}, "nothing gives a reward"),
        ({"reward_model": None}, "needs reward_model; set value_init: policy"),
        ({"share_base": True}, "share_base needs lora.rank above 0"),
        ({"keep": "best", "eval_every": 0}, "set eval_every"),
        ({"ppo": {"rollouts": 10}}, "do not divide by minibatches"),
        ({"ppo": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"ppo": {**PPO["ppo"], "max_new_tokens": 120}}, r"prompts with max_new_tokens 120 exceed the model's 128"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, models, settings, message):
    with pytest.raises(ConfigError, match=message):
        run_ppo(tmp_path, models, **settings)
