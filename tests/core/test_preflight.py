"""Mistakes that only a late stage would meet are said before the first one has run."""

import importlib.util
import re
import shutil

import pytest
import yaml

from rlhf_e2h.cli import main
from rlhf_e2h.runner.store import ASSETS

STAGES = {
    "1_prepare": {"stage": "prepare", "source": "procedural", "train_size": 10, "test_size": 5},
    "2_sft": {"stage": "sft", "policy": "asset:base", "data": "@prepare", "training": {"batch_size": 8}},
    "3_prm": {
        "stage": "reward", "kind": "prm", "base": "asset:base", "data": "@prepare", "reference_solutions": True,
        "flip_labels": 0.3,
        "training": {"batch_size": 8},
    },
    "4_ppo": {"stage": "ppo", "policy": "@sft", "data": "@prepare", "reward_model": "@prm", "rollouts": 48},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"name": "late", "runs": str(tmp_path / "runs")}))
    for name, settings in STAGES.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    shutil.copytree(ASSETS / "base", tmp_path / "policy")
    (tmp_path / "empty").mkdir()
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf/q4.gguf").write_bytes(b"GGUF")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["ppo.policy={folder}/policy", "ppo.format=chat"],
            "ppo: .*/policy: format chat, but its tokenizer has no chat template",
        ),
        (["ppo.policy={folder}/gguf"], r"/gguf: holds GGUF weights only \(q4.gguf\), .* convert them"),
        (["ppo.policy={folder}/gguf/q4.gguf"], r"/gguf: holds GGUF weights only \(q4.gguf\), .* convert them"),
        (["ppo.policy={folder}/empty"], r"/empty: no model here \(config.json is missing\)"),
        (["ppo.reward_model=/none/prm"], "'/none/prm' does not exist; give a path"),
        (
            ["ppo.outcome_model={folder}/policy"],
            "ppo: outcome_model: .*/policy: config.json has no .* convert a foreign",
        ),
        (["ppo.reward_model={folder}"], "ppo: reward_model: .*config.json"),
        (["--launch", "ddp.yaml", "ppo.rollouts=36"], "ppo under ddp.yaml: a minibatch has 9 rows .* 8 processes"),
        (["--launch", "ddp.yaml", "sft.training.batch_size=12"], "sft under ddp.yaml: batch_size 12 does not divide"),
        (
            ["--launch", "ddp.yaml", "prm.training.batch_size=12"],
            "prm under ddp.yaml: batch_size 12 does not divide by 8 processes",
        ),
        (
            ["--launch", "zero2.yaml", "ppo.load_in_4bit=true", "ppo.lora.r=4"],
            r"ppo: load_in_4bit does not run under DEEPSPEED \(zero2.yaml\); launch with ddp.yaml",
        ),
        (
            ["--launch", "fsdp.yaml", "prm.training.load_in_4bit=true", "prm.training.lora.r=4"],
            "prm: load_in_4bit does not run under FSDP",
        ),
        (["ppo.load_in_4bit=true", "ppo.lora.r=4"], "ppo: load_in_4bit needs bitsandbytes, which is not installed"),
    ],
)
def test_what_stops_a_late_stage_is_said_before_the_first(folder, capsys, monkeypatch, arguments, words):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "bitsandbytes" else find(name, *more)
    )
    code = main(["run", str(folder), *(argument.format(folder=folder) for argument in arguments)])
    errors = capsys.readouterr().err.replace("\n", " ")
    assert code == 2 and errors.count("e2h: ") == 1
    assert re.search(words, errors), errors
    assert not list((folder / "runs").glob("**/done.json"))
