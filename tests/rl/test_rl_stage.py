"""The `ppo` stage through the real runner, in miniature."""

import json
import shutil
from fnmatch import fnmatch

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reward_models.adapters import fingerprint, read_adapter
from reward_models.contract import StepContract
from reward_models.model import head_of, new_model
from reward_models.records import read_jsonl
from reward_models.score import Scorer
from rlhf_e2h.data.firewall import FirewallError
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.runs import run_stage
from rlhf_e2h.runner.store import Store
from rlhf_e2h.tools.dashboards import PANELS
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama, save_policy

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
    "eval_steps": 1,
    "eval_problems": 6,
    "steps": 2,
    "rollouts": 16,
    "num_mini_batches": 2,
    "per_device_train_batch_size": 8,
    "max_new_tokens": 12,
    "learning_rate": 1e-3,
    "warmup_steps": 0,
    "save_steps": 1,
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


@pytest.fixture(scope="module")
def chain(models, tmp_path_factory):
    """Folders of a policy and of a reward model, both trained with LoRA on models/policy by the real stages."""
    recipe = tmp_path_factory.mktemp("chain")
    (recipe / "recipe.yaml").write_text(yaml.safe_dump({"name": "chain", "runs": str(models / "runs")}))
    base = str(models / "policy")
    sft = {"stage": "sft", "policy": base, "data": "@prepare"}
    sft |= {
        "training": {
            "learning_rate": 3e-2,
            "num_train_epochs": 6,
            "batch_size": 8,
            "per_device_train_batch_size": 8,
            "max_length": 128,
        }
    }
    sft["training"]["lora"] = {"r": 2, "lora_alpha": 8}
    prm = {"stage": "reward", "kind": "prm", "base": base, "data": "@prepare", "reference_solutions": True}
    prm |= {"flip_labels": 0.3}  # written solutions alone are all right, and one class is refused
    prm |= {
        "held_out": 0.3,
        "training": {"learning_rate": 1e-2, "num_train_epochs": 4, "batch_size": 8, "lora": {"r": 3}},
    }
    for name, stage in (("1_prepare", PREPARE), ("2_sft", sft), ("3_prm", prm)):
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(stage))
    store = Store(load_recipe(recipe))
    return {spec.name: store.finished(spec, 0) or run_stage(store, spec, 0) for spec in store.recipe.stages.values()}


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
        if spec.name in ("prepare", name):
            folder = store.finished(spec, 0) or run_stage(store, spec, 0)
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


@pytest.mark.parametrize("shares", [False, True])
def test_killed_stage_goes_on_and_ends_with_the_same_weights(tmp_path, models, chain, monkeypatch, shares):
    settings = {**shared_settings(chain), "gradient_checkpointing": True} if shares else {}
    settings["keep"] = "best"
    whole, _ = run_ppo(tmp_path, models, **settings)
    shutil.copytree(models / "runs/prepare", tmp_path / "runs/prepare")

    from rlhf_e2h.rl import watcher as ppo_watcher

    original = ppo_watcher.Watcher.on_step

    def killed_in_the_second_step(self, step, metrics, rollouts):
        if step == 1:
            raise KeyboardInterrupt
        return original(self, step, metrics, rollouts)

    with monkeypatch.context() as patch:
        patch.setattr(ppo_watcher.Watcher, "on_step", killed_in_the_second_step)
        with pytest.raises(KeyboardInterrupt):
            run_ppo(tmp_path, models, runs=tmp_path / "runs", **settings)
    killed, _ = run_ppo(tmp_path, models, runs=tmp_path / "runs", **settings)
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    logs = [read_jsonl(folder / "metrics.jsonl") for folder in (whole, killed)]
    assert [row["objective/rlhf_reward"] for row in logs[0]] == [row["objective/rlhf_reward"] for row in logs[1]]


def test_of_equal_evaluations_the_later_weights_are_kept(tmp_path, models):
    """All are 0 here, as all may be 1 where easy problems are solved from the start: training must not be lost."""
    best, _ = run_ppo(tmp_path, models, eval_steps=1, keep="best")
    assert {row["eval/accuracy_easy"] for row in read_jsonl(best / "metrics.jsonl")} == {0.0}
    names = set().union(*read_jsonl(best / "metrics.jsonl"))
    asked = {metric for part in PANELS["ppo"].values() for metric in part} - {"alarm/*"}  # of wandb's panels
    assert not [metric for metric in asked if not any(fnmatch(name, metric) for name in names)]
    last, _ = run_ppo(tmp_path, models, eval_steps=1, keep="last")
    a, b = (load_file(folder / "model.safetensors") for folder in (best, last))
    assert all(torch.equal(a[name], b[name]) for name in a)


def shared_settings(chain):
    settings = {"policy": str(chain["sft"]), "reward_model": str(chain["prm"])}
    return {**settings, "share_base": True, "lora": {"r": 3}, "value_init": "reward"}


def test_all_four_models_share_the_base_of_a_chain_of_lora_stages(tmp_path, models, chain, monkeypatch, caplog):
    """Nothing but the base is loaded; the policy starts as the SFT policy, the value model as the reward model."""
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "from_pretrained", None)
        patch.setattr("rlhf_e2h.stages.ppo.value_from_reward_model", None)
        opened = []
        real = load_policy
        patch.setattr(
            "rlhf_e2h.training.models.load_policy", lambda path, *rest: opened.append(path) or real(path, *rest)
        )
        folder, _ = run_ppo(tmp_path, models, **shared_settings(chain), eval_steps=0)
    assert [str(path) for path in opened] == [str(models / "policy")]
    assert not [one for one in caplog.records if "beside the shared base" in one.getMessage()]
    first = read_jsonl(folder / "metrics.jsonl")[0]
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    base, sft, ppo = (AutoModelForCausalLM.from_pretrained(f) for f in (models / "policy", chain["sft"], folder))
    name = "model.layers.0.mlp.up_proj.weight"
    weights = [model.state_dict()[name] for model in (base, sft, ppo)]
    assert (weights[1] - weights[0]).norm() > 5 * (weights[2] - weights[1]).norm() > 0
    assert read_adapter(folder).fingerprint == fingerprint(base)  # so that the next PPO may share the base too
    # layers that are computed again change nothing
    again, _ = run_ppo(tmp_path, models, **shared_settings(chain), eval_steps=0, gradient_checkpointing=True)
    a, b = (load_file(one / "adapter/adapter_model.safetensors") for one in (folder, again))
    assert all(torch.allclose(a[name], b[name], atol=1e-5) for name in a)
    last = [read_jsonl(one / "metrics.jsonl")[-1]["critic/value_mean"] for one in (folder, again)]
    assert last[0] == pytest.approx(last[1], abs=1e-6)
    # the same rewards and values as with models of their own, in the first step
    alone, _ = run_ppo(tmp_path, models, **{**shared_settings(chain), "share_base": False}, eval_steps=0)
    separate = read_jsonl(alone / "metrics.jsonl")[0]
    names = ["objective/scores", "critic/value_mean", "step_rewards/score_mean", "perf/flops"]
    assert abs(first["critic/value_mean"]) > 1e-3
    assert [first[name] for name in names] == pytest.approx([separate[name] for name in names], abs=1e-5)


def test_a_reward_model_on_another_base_is_loaded_beside_it(tmp_path, models, chain, caplog):
    """In one line that says why; but no value model can start from it."""
    settings = {**shared_settings(chain), "reward_model": str(models / "prm")}
    run_ppo(tmp_path, models, **{**settings, "value_init": "policy"}, eval_steps=0)
    messages = [record.getMessage() for record in caplog.records if "beside the shared base" in record.getMessage()]
    assert len(messages) == 1 and "reward_model is loaded beside the shared base" in messages[0]
    assert "prm has no adapter/; it was not trained with LoRA here" in messages[0]
    with pytest.raises(ConfigError, match=r"needs a reward model on the same base, but .* set value_init: policy"):
        run_ppo(tmp_path, models, **settings)
    # a merged policy whose base is gone is a base itself, of which the reward model knows nothing
    moved = shutil.copytree(chain["sft"], tmp_path / "moved")
    config = json.loads((moved / "adapter/adapter_config.json").read_text())
    (moved / "adapter/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/gone"}))
    with pytest.raises(ConfigError, match=r"policy, whose weights are not those of .*moved"):
        run_ppo(tmp_path, models, **{**settings, "policy": str(moved), "reward_model": str(chain["prm"])})


def test_both_reward_models_may_share_the_base(tmp_path, models, chain):
    """One that is the other's copy gives a whole score of its own: the smallest of the step scores."""
    copied = shutil.copytree(chain["prm"], tmp_path / "copied")
    settings = {**shared_settings(chain), "outcome_model": str(copied), "outcome": "none", "empty_step_score": None}
    folder, _ = run_ppo(tmp_path, models, **settings, value_head_only=True, eval_steps=0)
    for row in read_jsonl(folder / "rollouts.jsonl"):
        assert row["outcome"] == pytest.approx(min(row["step_scores"]), abs=1e-6)


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
        {"lora": {"r": 2}, "value_init": "reward_zero_head"},
        {"lora": {"r": 2}, "value_init": "policy", "share_base": True, "eval_steps": 1, "keep": "best"},
        {"lora": {"r": 2}, "value_init": "policy", "share_base": True, "gradient_checkpointing": True},
        {"lora": {"r": 2}, "value_init": "reward", "bf16": True},
        {"lora": {"r": 2}, "value_init": "policy", "share_base": True, "bf16": True},
        {"value_head_only": True, "outcome": "none", "eval_steps": 0},
        {"gradient_checkpointing": True, "answer_step": False, "bf16": True, "value_init": "policy"},
    ],
)
def test_variants_run(tmp_path, models, settings):
    folder, _ = run_ppo(tmp_path, models, **settings)
    first = read_jsonl(folder / "metrics.jsonl")[0]
    assert first["objective/kl"] == pytest.approx(0.0, abs=0.2 if settings.get("bf16") else 1e-4)
    AutoModelForCausalLM.from_pretrained(folder)


def test_kl_stop_before_the_first_evaluation_leaves_the_weights_that_were_reached(tmp_path, models):
    folder, done = run_ppo(tmp_path, models, eval_steps=5, keep="best", kl_stop=-1.0)
    assert "above kl_stop" in done["results"]["stopped"]
    [row] = read_jsonl(folder / "metrics.jsonl")
    assert "eval/accuracy_easy" in row
    before, after = (load_file(path / "model.safetensors") for path in (models / "policy", folder))
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_policy_with_more_rows_than_tokens_can_start_its_value_model_from_a_reward_model(tmp_path, models):
    policy, tokenizer = load_policy(models / "policy")
    policy.resize_token_embeddings(160, mean_resizing=False)
    with torch.no_grad():  # rows that a plain softmax would choose every time
        policy.get_input_embeddings().weight[102:] *= 100
    save_policy(policy, tokenizer, tmp_path / "padded")
    folder, _ = run_ppo(tmp_path, models, policy=str(tmp_path / "padded"), kl_coef=0.1)
    rows = read_jsonl(folder / "metrics.jsonl")
    assert len(rows) == 2 and rows[0]["rollout/logprob_diff_mean"] < 1e-4
    assert rows[0]["objective/kl"] == pytest.approx(0.0, abs=1e-3)


def test_frozen_embeddings_and_norms_are_not_trained(tmp_path, models):
    folder, _ = run_ppo(tmp_path, models, freeze_embeddings=True, freeze_norms=True)
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (models / "policy", folder))
    changed = {name for name, weights in after.items() if not torch.equal(weights, before[name])}
    assert changed == {name for name in before if not any(part in name for part in ("embed", "lm_head", "norm"))}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_model": None, "outcome": "none"}, "nothing gives a reward"),
        ({"reward_model": None}, "needs reward_model; set value_init: policy"),
        ({"share_base": True}, "share_base needs lora.r above 0"),
        ({"share_base": True, "lora": {"r": 2}}, "needs a reward model on the same base, but .* has no adapter/"),
        ({"keep": "best", "eval_steps": 0}, "set eval_steps"),
        ({"rollouts": 11}, "do not divide by num_mini_batches"),
        ({"learning_rat": 1}, "did you mean 'learning_rate'"),
        ({"max_new_tokens": 120}, r"prompts with max_new_tokens 120 exceed the model's 128"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, models, settings, message):
    with pytest.raises(ConfigError, match=message):
        run_ppo(tmp_path, models, **settings)
