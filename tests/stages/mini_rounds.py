"""A tiny policy, a tiny reward model, and recipes of two stages for tests of DPO, ReST-EM and GRPO."""

import json

import torch
import yaml
from safetensors.torch import load_file

from reward_models.contract import StepContract
from reward_models.model import head_of, new_model
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.runs import run_stage
from rlhf_e2h.runner.store import Store
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy

PREPARE = {
    "stage": "prepare",
    "source": "procedural",
    "train_per_level": [6] * 5,
    "validation_per_level": [1] * 5,
    "test_per_level": [1] * 5,
}
TRAINING = {
    "learning_rate": 1e-3,
    "warmup_steps": 0.0,
    "batch_size": 8,
    "per_device_train_batch_size": 8,
    "max_length": 144,
}
DECODING = {"n": 6, "max_new_tokens": 80, "temperature": 1.5}  # one token of 102 ends a text
DPO = {"stage": "dpo", "problems": 8, "rounds": 2, "margin": 0.0, "margin_unlabelled": 0.0}
# a model of no training writes no answers, so here the shipped one samples
REST = {"stage": "rest", "policy": "asset:base", "problems": 8, "rounds": 2, "threshold": 0.0, "max_kept": 2}
REST |= {"decoding": {"n": 2, "max_new_tokens": 90}}
GRPO = {"stage": "grpo", "problems": 4, "num_generations": 4, "max_new_tokens": 12, "beta": 0.1}


def make_models(folder):
    """Folders of a tiny policy that ends its texts now and then, and of a tiny reward model with a random head."""
    torch.set_num_threads(1)
    shape = ModelShape(hidden=16, layers=1, intermediate=32, heads=2, max_positions=160)
    policy, tokenizer = new_llama(shape, "procedural", seed=0)
    save_policy(policy, tokenizer, folder / "policy")
    reward = new_model(folder / "policy", StepContract("prm"))
    torch.nn.init.normal_(head_of(reward).weight, generator=torch.Generator().manual_seed(1))
    reward.save_pretrained(folder / "prm")
    tokenizer.save_pretrained(folder / "prm")
    return folder


def run(tmp_path, models, stage, name=None, runs=None, others=None, bare=False, **settings):
    """(folder of the finished stage, its completion record); prepare is run once for all.

    Args:
        others: stages that run before it, by name.
        bare: the stage has no other settings than those it is given.
    """
    name = name or stage["stage"]
    recipe = tmp_path / "recipe"
    recipe.mkdir(parents=True, exist_ok=True)
    config = {"policy": str(models / "policy"), "data": "@prepare", "reward_model": str(models / "prm")}
    config = {**stage, **settings} if bare else config | {"training": TRAINING, **stage, **settings}
    if stage["stage"] != "grpo" and not bare:
        config = {"decoding": DECODING, **config}
    (recipe / "recipe.yaml").write_text(yaml.safe_dump({"name": "mini", "runs": str(runs or models / "runs")}))
    (recipe / "1_prepare.yaml").write_text(yaml.safe_dump(PREPARE))
    (recipe / f"2_{name}.yaml").write_text(yaml.safe_dump(config))
    for other, text in (others or {}).items():
        (recipe / f"2_{other}.yaml").write_text(yaml.safe_dump(text))
    try:
        store = Store(load_recipe(recipe))
        for spec in store.recipe.stages.values():
            if not store.finished(spec, 0):
                run_stage(store, spec, 0)
        folder = store.finished(store.recipe.stages[name], 0)
    finally:
        for file in recipe.glob("2_*.yaml"):
            file.unlink()
    return folder, json.loads((folder / "done.json").read_text())


def weights(folder):
    return load_file(folder / "model.safetensors")


def differ(a, b):
    return any(not torch.equal(a[name], b[name]) for name in a)
