"""From samples to the report in miniature: what evaluation writes is what the report shows."""

import csv
import json

import pytest
from mini_rounds import DPO, make_models, run

from reward_models.records import read_jsonl

BASE = "asset:base"
SAMPLE = {"stage": "sample", "policy": BASE, "data": "@prepare", "decoding": {"n": 4, "max_new_tokens": 64}}
OTHERS = {
    "a_easy": {**SAMPLE, "levels": [1, 2, 3]},
    "b_dpo": {**DPO, "policy": BASE, "data": "@prepare", "samples": "@a_easy", "rounds": 1, "problems": None},
    "c_bank": {**SAMPLE, "split": "test"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of the evaluation and of the report."""
    models, place = make_models(tmp_path_factory.mktemp("models")), tmp_path_factory.mktemp("recipe")
    prm = {"prm": str(models / "prm")}
    training = {"learning_rate": 1e-3, "batch_size": 8, "max_length": 144}
    dpo = {**OTHERS["b_dpo"], "reward_model": prm["prm"], "decoding": {"n": 4, "max_new_tokens": 64}}
    evaluate = {
        "stage": "evaluate", "data": "@prepare", "policies": {"sft_easy": BASE, "dpo": "@b_dpo"},
        "samples": "@c_bank", "banks": {"icl": "@c_bank"}, "rerank": "@d_rerank", "reward_models": prm, "judge": "prm",
        "step_labels": "procedural", "draws": 8, "max_new_tokens": 64,
    }  # fmt: skip
    others = OTHERS | {
        "b_dpo": dpo | {"training": training},
        "d_rerank": {"stage": "rerank", "samples": "@c_bank", "data": "@prepare", "reward_models": prm},
        "e_evaluate": evaluate,
    }
    report = {"stage": "report", "evaluations": ["@e_evaluate"], "draws": 200}
    folder, _ = run(place, models, report, others=others, bare=True)
    (evaluation,) = (models / "runs" / "e_evaluate").iterdir()
    return evaluation, folder


def test_what_evaluation_writes(folders):
    evaluation, _ = folders
    rows = read_jsonl(evaluation / "outcomes.jsonl")
    greedy = [row for row in rows if row["decoding"] == "greedy"]
    assert {row["policy"] for row in greedy} == {"sft_easy", "dpo"} and all(0 <= row["score"] <= 1 for row in greedy)
    mine, icl = ([{**row, "policy": ""} for row in rows if (row["policy"], row["decoding"]) == (name, "majority")]
                 for name in ("sft_easy", "icl"))  # fmt: skip
    assert mine == icl and {row["samples"] for row in icl} == {1, 2, 4}  # one bank under two names
    assert {row["decoding"] for row in rows if row["policy"] == "icl"} == {"mean", "majority", "pass_at_n"}
    quality = json.loads((evaluation / "quality.json").read_text())["prm"]["all"]
    low, high = quality["intervals"]["outcome_balanced_accuracy"]
    assert low <= quality["outcome_balanced_accuracy"] <= high and quality["outcome_roc"]
    done = json.loads((evaluation / "done.json").read_text())
    assert done["results"]["problems"] == 5 and done["results"]["greedy_cost"]["dpo"][1] > 0
    assert done["tokens"] == sum(tokens for tokens, _ in done["results"]["greedy_cost"].values())


def test_what_the_report_shows(folders):
    evaluation, folder = folders
    results = json.loads((folder / "results.json").read_text())
    records = {path.parents[1].name: json.loads((path).read_text())
               for path in evaluation.parents[1].glob("*/*/done.json")}  # fmt: skip
    rows = {(row["policy"], row["decoding"], row["samples"]): row for row in results["compute"]["rows"]}
    dpo, best, icl = (rows[key] for key in (("dpo", "greedy", 1), ("sft_easy", "best_of_n", 4), ("icl", "majority", 4)))
    # DPO: its bank of easy problems and its own training; the reward model was not made here
    assert dpo["once_flops"] == pytest.approx(records["a_easy"]["flops"] + records["b_dpo"]["flops"])
    bank = records["c_bank"]["flops"] / 5
    assert icl["flops_each"] == pytest.approx(bank) and icl["once_flops"] == 0
    assert best["flops_each"] == pytest.approx(bank + records["d_rerank"]["flops"] / 5)
    with (folder / "figures/compute.csv").open() as file:
        assert {row["policy"] for row in csv.DictReader(file)} >= {"dpo", "sft_easy"}
    matched = results["compute"]["matched"]
    assert {row["treatment"]["policy"] for row in matched} == {"dpo"} and matched[0]["low"] is not None
    with (folder / "figures/reward_hacking.csv").open() as file:
        assert all(float(row["score_low"]) <= float(row["score_high"]) for row in csv.DictReader(file))
    with (folder / "figures/roc_outcome.csv").open() as file:
        points = list(csv.DictReader(file))
    assert points[-1]["true_positive"] == points[-1]["false_positive"] == "1.000000"
    page = (folder / "report.html").read_text()
    assert "Accuracy over compute" in page and "outcome accuracy, balanced" in page
