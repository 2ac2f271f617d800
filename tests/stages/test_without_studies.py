"""The method works where studies/ has been deleted: its stages run in a copy, as a person would start them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TRAINING = {"batch_size": 4, "learning_rate": 1e-3, "max_steps": 1}
MODEL = {"policy": "@sft", "data": "@prepare", "reward_model": "@prm"}
STAGES = {
    "1_prepare": {"stage": "prepare", "source": "procedural", "train_per_level": [4] * 5, "test_per_level": [1] * 5},
    "2_sft": {"stage": "sft", "policy": "asset:base", "data": "@prepare", "training": TRAINING},
    "3_sample": {
        "stage": "sample", "policy": "@sft", "data": "@prepare", "levels": [1, 2, 3],
        "decoding": {"n": 4, "max_new_tokens": 60},
    },
    "4_grade": {"stage": "grade", "samples": "@sample", "data": "@prepare"},
    "5_prm": {
        "stage": "reward", "kind": "prm", "base": "asset:base", "data": "@prepare", "graded": "@grade",
        "step_labels": "procedural", "held_out": 0.3, "training": {"batch_size": 4, "num_train_epochs": 1},
    },
    "6_ppo": {
        "stage": "ppo", **MODEL,
        "steps": 1, "rollouts": 4, "num_mini_batches": 1, "max_new_tokens": 20,
    },
    "6_dpo": {
        "stage": "dpo", **MODEL, "problems": 6, "margin": -1.0, "margin_unlabelled": -1.0,
        "decoding": {"n": 4, "max_new_tokens": 60}, "training": TRAINING,
    },
    "6_rest": {
        "stage": "rest", **MODEL, "problems": 6, "rounds": 1, "threshold": 0.0,
        "decoding": {"n": 4, "max_new_tokens": 60}, "training": TRAINING,
    },
}  # fmt: skip


def test_reward_models_ppo_dpo_and_rest_run_without_studies(tmp_path):
    for package in ("rlhf_e2h", "reward_models", "recipes", "launch"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(tmp_path / "rlhf_e2h" / "studies")
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "recipe.yaml").write_text(yaml.safe_dump({"name": "alone", "runs": str(tmp_path / "runs")}))
    for name, stage in STAGES.items():
        (recipe / f"{name}.yaml").write_text(yaml.safe_dump(stage))

    def e2h(*words):
        done = subprocess.run(
            [sys.executable, "-m", "rlhf_e2h", *words], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "map" not in e2h("--help").rpartition("stages, one command each")[2].split()
    assert "8 of 8 stages run" in e2h("run", str(recipe))
    for stage in ("prm", "ppo", "dpo", "rest"):
        assert list((tmp_path / "runs").glob(f"**/{stage}/*/model.safetensors")), stage
    assert e2h("plan", "quickstart")  # every stage of the quickstart is known here
