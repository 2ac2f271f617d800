"""The stages of cartography and data engineering through the real runner, with a tiny random model."""

import csv
import json
import math

import pytest
import torch
import yaml

from reward_models.records import read_jsonl
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.runs import run_stage
from rlhf_e2h.runner.store import Store
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy

pytestmark = pytest.mark.slow  # nineteen stages

TRAINING = {"learning_rate": 1e-3, "max_steps": 4, "batch_size": 8}
PRM = {"stage": "reward", "kind": "prm", "base": "BASE", "data": "@prepare", "dynamics": True}
PRM["training"] = {"learning_rate": 1e-3, "num_train_epochs": 2, "batch_size": 8, "loss_on": "step_end"}
SFT = {"stage": "sft", "policy": "BASE", "data": "@prepare", "training": TRAINING}
STAGES = {
    "1_prepare": {"stage": "prepare", "source": "procedural", "train_per_level": [12] * 5, "test_per_level": [2] * 5},
    "2_prm": {**PRM, "reference_solutions": True, "flip_labels": 0.1},
    "3_map": {"stage": "map", "dynamics": "@prm", "other": "@map_sft"},
    "4_flip": {"stage": "flip", "run": "@prm", "share": 0.05, "among": "@map"},
    "4_injected": {**PRM, "records": "@flip/records.jsonl"},
    "4_select": {"stage": "select", "map": "@map", "run": "@prm", "fraction": 0.5, "easy_share": 0.2},
    "5_map_injected": {"stage": "map", "dynamics": "@injected"},
    "6_mislabel": {
        "stage": "mislabel",
        "map": "@map",
        "injected": "@map_injected",
        "flips": "@flip",
        "items": "@prm",
        "truth": "@prm",
    },
    "6_prm_selected": {
        **PRM,
        "dynamics": False,
        "records": "@select/records.jsonl",
        "mixture": {"weights": "uniform", "curriculum": "staged"},
    },
    "7_bank": {"stage": "sample", "policy": "BASE", "data": "@prepare", "split": "test"},
    "7_grade": {"stage": "grade", "samples": "@bank", "data": "@prepare", "labels": "full", "purpose": "evaluation"},
    "8_contrast": {
        "stage": "contrast",
        "graded": "@grade",
        "data": "@prepare",
        "reward_models": {"all": "@prm", "some": "@prm_selected"},
        "step_labels": "procedural",
        "draws": 100,
    },
    "2_sft": {**SFT, "dynamics": True, "snapshots": 2, "form": "reverse"},
    "3_map_sft": {"stage": "map", "dynamics": "@sft"},
    "4_select_sft": {"stage": "select", "map": "@map_sft", "run": "@sft", "metric": "random", "fraction": 0.5},
    "5_sft_selected": {**SFT, "keep": "@select_sft/selected.jsonl", "snapshots": 2},
    "2_sft_mixed": {
        **SFT,
        "snapshots": 2,
        "mixture": {"weights": "skill_it", "graph": {"1": ["2"]}, "update_every": 2, "items": 3},
        "training": {**TRAINING, "save_steps": 2},
    },
    "2_graph": {
        "stage": "skillgraph",
        "policy": "BASE",
        "data": "@prepare",
        "steps": 1,
        "batch_size": 4,
        "learning_rate": 0.02,  # gains that six decimals of a table can tell from 0
        "items": 3,
        "repeats": 1,
    },
    "9_speed": {
        "stage": "speed",
        "data": "@prepare",
        "runs": {"plain": "@sft", "mixed": "@sft_mixed"},
        "draws": 100,
        "max_new_tokens": 4,
    },
}
STAGES["7_bank"]["decoding"] = {"n": 2, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Folder of each finished stage."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    shape = ModelShape(hidden=16, layers=1, intermediate=16, heads=1, max_positions=256)
    save_policy(*new_llama(shape, "procedural", seed=0), folder / "base")
    recipe = folder / "recipe"
    recipe.mkdir()
    (recipe / "recipe.yaml").write_text(yaml.safe_dump({"name": "study", "runs": str(folder / "runs")}))
    for name, stage in STAGES.items():
        text = yaml.safe_dump(stage).replace("BASE", str(folder / "base"))
        (recipe / f"{name}.yaml").write_text(text)
    store = Store(load_recipe(recipe))
    found = {}
    for name, spec in store.recipe.stages.items():
        found[name] = run_stage(store, spec, 0)
    return found


def test_reward_dynamics_are_in_the_public_format(study):
    rows = read_jsonl(study["prm"] / "training_dynamics/dynamics_epoch_1.jsonl", ("guid", "logits_epoch_1", "gold"))
    items = read_jsonl(study["prm"] / "items.jsonl")
    assert [row["guid"] for row in rows] == [item["guid"] for item in items]
    assert [row["gold"] for row in rows] == [item["label"] for item in items]
    flipped = {row["guid"] for row in read_jsonl(study["prm"] / "flips.jsonl")}
    assert len(flipped) == round(0.1 * len(items))
    # reference solutions are right throughout, so every wrong label was planted
    assert {item["guid"] for item in items if item["label"] == 0} == flipped


def test_map_has_every_item_and_its_region(study):
    items = read_jsonl(study["prm"] / "items.jsonl")
    assert len(read_jsonl(study["map"] / "td_metrics.jsonl")) == len(items)
    rows = list(csv.DictReader((study["map"] / "data_map.csv").open()))
    assert rows[0]["level"] == "all"
    assert int(rows[0]["items"]) == sum(int(row["items"]) for row in rows[1:]) == len(items)
    assert (study["map"] / "data_map.png").read_bytes().startswith(b"\x89PNG")
    assert (study["map"] / "data_map.pdf").read_bytes().startswith(b"%PDF")
    section = json.loads((study["map"] / "section.json").read_text())[0]
    assert "nan" not in section["paragraph"].lower()
    assert "none (only 0 items have both)" in section["paragraph"]  # the other map is of other items


def test_selection_keeps_half_and_what_is_held_out(study):
    chosen = read_jsonl(study["select"] / "selected.jsonl")
    mapped = {item["record"] for item in read_jsonl(study["prm"] / "items.jsonl")}
    assert len(chosen) == len(mapped) // 2
    kept = {row["record_id"] for row in read_jsonl(study["select"] / "records.jsonl")}
    everything = {row["record_id"] for row in read_jsonl(study["prm"] / "records.jsonl")}
    assert kept == {row["record"] for row in chosen} | (everything - mapped)
    done = json.loads((study["prm_selected"] / "done.json").read_text())
    assert done["results"]["records"] == len(chosen)


def test_injected_flips_come_on_top_of_planted_ones_and_are_easy(study):
    injected = {row["guid"] for row in read_jsonl(study["flip"] / "flips.jsonl")}
    regions = {row["guid"]: row["region"] for row in read_jsonl(study["map"] / "regions.jsonl")}
    assert injected
    assert {regions[guid] for guid in injected} == {"easy-to-learn"}
    before = {item["guid"]: item["label"] for item in read_jsonl(study["prm"] / "items.jsonl")}
    after = {item["guid"]: item["label"] for item in read_jsonl(study["injected"] / "items.jsonl")}
    assert {guid for guid in before if before[guid] != after[guid]} == injected


def test_suspects_come_with_their_text(study):
    section = json.loads((study["mislabel"] / "section.json").read_text())[0]
    assert "planted wrongly" in section["paragraph"]
    for row in read_jsonl(study["mislabel"] / "suspects.jsonl"):
        assert row["text"]
        assert row["probability"] >= 0.5


def test_contrast_names_why_a_figure_is_missing(study):
    rows = list(csv.DictReader((study["contrast"] / "contrast.csv").open()))
    assert {row["reward_model"] for row in rows} == {"all", "some"}
    # a random model writes no valid step, so there is no AUC, and says so
    assert all(row["reason"] and not row["estimate"] for row in rows if row["figure"] == "step_auc")
    assert all(float(row["estimate"]) == 0 for row in rows if row["figure"] == "best_of_n")
    assert "nan" not in (study["contrast"] / "contrast.csv").read_text().lower()


def test_fine_tuning_dynamics_are_probabilities_of_solutions(study):
    # 4 steps of 8 in 36 easy solutions: one epoch, cut short
    files = sorted(path.name for path in (study["sft"] / "training_dynamics").iterdir())
    assert files == ["dynamics_epoch_0.jsonl"]
    rows = read_jsonl(study["sft"] / "training_dynamics/dynamics_epoch_0.jsonl")
    assert len(rows) == 36
    assert all(row["gold"] == 1 and math.isfinite(row["logits_epoch_0"][1]) for row in rows)
    done = json.loads((study["sft_selected"] / "done.json").read_text())
    assert done["results"]["solutions"] == 18


def test_speed_reads_every_snapshot(study):
    assert sorted(path.name for path in (study["sft"] / "snapshots").glob("step_*")) == [
        "step_000000",
        "step_000002",
        "step_000004",
    ]
    rows = list(csv.DictReader((study["speed"] / "speed.csv").open()))
    assert [row["skill"] for row in rows if row["run"] == "mixed"] == ["1", "2", "3", "4", "5", "mean"]
    assert all(not row["step"] and "never 0.9" in row["reason"] for row in rows)
    curves = list(csv.DictReader((study["speed"] / "curves.csv").open()))
    assert len(curves) == 2 * 5 * 3
    done = json.loads((study["speed"] / "done.json").read_text())
    assert {record["purpose"] for record in done["labels_read"]} == {"evaluation"}


def test_skill_it_logs_its_weights(study):
    rows = read_jsonl(study["sft_mixed"] / "metrics.jsonl")
    losses = [row for row in rows if "mixture/loss_1" in row]
    assert [row["step"] for row in losses] == [2, 4]
    weights = [row for row in rows if "mixture/1" in row]
    assert weights
    shares = {name: value for name, value in weights[-1].items() if name in ("mixture/1", "mixture/2", "mixture/3")}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["mixture/1"] > shares["mixture/3"]  # level 1 helps level 2, so it gets more
    mixture = json.loads((study["sft_mixed"] / "mixture.json").read_text())
    assert sum(mixture.values()) == pytest.approx(1)


def test_staged_reward_training_logs_what_is_open(study):
    rows = [row for row in read_jsonl(study["prm_selected"] / "metrics.jsonl") if "mixture/1" in row]
    assert rows
    assert all(row["mixture/1"] + row["mixture/2"] + row["mixture/3"] == pytest.approx(1) for row in rows)


def test_skill_graph_has_every_pair(study):
    rows = list(csv.DictReader((study["graph"] / "skill_graph.csv").open()))
    assert [(row["helper"], row["skill"]) for row in rows] == [(i, j) for i in "123" for j in "123" if i != j]
    graph = json.loads((study["graph"] / "graph.json").read_text())
    edges = {(i, j) for i, helped in graph.items() for j in helped}
    assert edges == {(row["helper"], row["skill"]) for row in rows if row["edge"] == "1"}
    assert edges == {(row["helper"], row["skill"]) for row in rows if float(row["fall_of_loss"]) > 0}


def test_settings_that_contradict_each_other(tmp_path):
    from rlhf_e2h.training.mixing import MixtureSettings, build_sampler

    with pytest.raises(ValueError, match="set both or none"):
        MixtureSettings(weights="given")
    with pytest.raises(ValueError, match="decide for themselves"):
        MixtureSettings(weights="skill_it", curriculum="staged")
    problems = [{"level": 1, "subject": "x"}] * 4
    with pytest.raises(ValueError, match="'7' is not a skill"):
        build_sampler(MixtureSettings(weights="given", given={"1": 1, "7": 1}), problems, 2, 4, 0)
    with pytest.raises(ValueError, match="names '9'"):
        build_sampler(MixtureSettings(weights="skill_it", graph={"1": ["9"]}), problems, 2, 4, 0)
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    (tmp_path / "1_speed.yaml").write_text("stage: speed\ndata: x\nruns: {a: b}\nbaseline: c\n")
    with pytest.raises(ConfigError, match="baseline 'c' is none of a"):
        load_recipe(tmp_path)
