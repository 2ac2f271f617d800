"""The stage on a run folder as the earlier stages leave it."""

from __future__ import annotations

import csv
import json

import pytest
from conftest import made_up_rows, made_up_solutions

from reward_models.records import write_jsonl
from rlhf_e2h.report import sources
from rlhf_e2h.runner.config import ConfigError, build
from rlhf_e2h.runner.run_files import write_json
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.store import Resolved
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.stages import report

QUALITY = {
    "prm": {
        "easy": {"step_auc": 0.9, "outcome_auc": 0.8, "calibration_error": 0.1, "first_error": {"f1": 0.7}},
        "hard": {
            "step_auc": 0.8,
            "outcome_auc": None,
            "calibration_error": 0.2,
            "calibration_curve": [{"low": 0.9, "score": 0.95, "observed": 0.5, "observed_ci": (0.3, 0.7), "n": 4}],
            "first_error": {"f1": None},
        },
    }
}
POLICIES = {
    "judge": "prm",
    "policies": {
        "sft_easy": {
            "1": {"n": 10, "accuracy": 1.0, "reward": 0.9},
            "4": {"n": 30, "accuracy": 0.4, "reward": 0.5},
            "5": {"n": 10, "accuracy": 0.2, "reward": 0.5},
        },
        "ppo_prm": {"4": {"n": 30, "accuracy": 0.6, "reward": 0.9}, "5": {"n": 10, "accuracy": 0.1, "reward": 0.75}},
    },
}


def finished(root, kind, name, seed, upstream=(), **record):
    """A finished stage folder."""
    folder = root / name / f"seed{seed}"
    folder.mkdir(parents=True)
    done = {
        "stage": kind, "name": name, "seed": seed, "seconds": 1.0, "finished": f"2026-02-03T04:0{seed}:00+00:00",
        "upstream": [str(one.relative_to(root)) for one in upstream], "labels_read": [], "labels_inherited": [],
        "results": {}, "files": {},
    }  # fmt: skip
    write_json(folder / "done.json", done | record)
    return folder


def stage_run(root, seeds=(0, 1)):
    """(config, run) of a report on a policy trained with PPO, a reward model and an evaluation for each seed."""
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "run.json", {"recipe": "tiny", "machine": "a desk", "git": {"commit": None}, "versions": {}})
    evaluations, rewards = [], []
    for seed in seeds:
        reward = finished(root, "reward", "prm", seed)
        write_json(reward / "quality.json", {"kind": "prm", "records": 100 + 2 * seed, "validation": {}})
        ppo = finished(root, "ppo", "ppo_prm", seed, [reward])
        write_json(ppo / "settings.json", {"stage": "ppo", "name": "ppo_prm", "seed": seed, "kl_coef": 0.02})
        metrics = {"eval/rm_level_1": 0.5, "eval/accuracy_level_1": 0.25 + 0.5 * seed, "objective/kl": 1.0}
        write_jsonl(ppo / "metrics.jsonl", [{"step": 0, "objective/kl": 0.0}, {"step": 1, **metrics}])
        folder = finished(root, "evaluate", "evaluate", seed, [reward, ppo])
        write_jsonl(folder / "outcomes.jsonl", made_up_rows(seed, per_level=4, sizes=(1, 4)))
        write_jsonl(folder / "solutions.jsonl", made_up_solutions())
        write_json(folder / "quality.json", QUALITY)
        write_json(folder / "policies.json", POLICIES)
        evaluations.append(Resolved(folder, "", folder))
        rewards.append(Resolved(reward, "", reward))
    out = root / "report" / "x"
    out.mkdir(parents=True)
    inputs = {"@evaluate": evaluations, "@prm": rewards}
    data = {
        "evaluations": ["@evaluate"], "reward_models": {"prm": "@prm"}, "draws": 100,
    }  # fmt: skip
    named = {"treatment": {"policy": "ppo_prm"}, "baseline": {"policy": "base"}, "level": "5", "name": "five"}
    data["comparisons"] = [named]
    return build(report.Config, data, "report.yaml"), StageRun("report", "report", out, 0, root, Tracker(out), inputs)


def test_writes_everything(tmp_path, capsys):
    config, run = stage_run(tmp_path)
    report.main(config, run)
    with (run.out / "results.csv").open() as file:
        assert {row["seed"] for row in csv.DictReader(file)} == {"0", "1", "all"}
    results = json.loads((run.out / "results.json").read_text())
    assert results["seeds"] == [0, 1] and results["comparisons"][-1]["name"] == "five"
    page = (run.out / "report.html").read_text()
    for text in (
        "tiny: from easy",
        "2026-02-03 04:01 UTC",
        "a desk",
        "not in a git checkout",
        "Comparisons of this recipe",
        "Settings of the 1 stages",
        "kl_coef: 0.02",
    ):
        assert text in page
    assert (
        "0.900" in page and "0.800" in page and ">100<" not in page
    )  # two seeds: 100.5 records, shown as a whole number
    with (run.out / "figures/reward_hacking.csv").open() as file:
        points = list(csv.DictReader(file))
    # .6 - .4 and .9 - .5 on level 4, .1 - .2 and .75 - .5 on level 5; two seeds of 30 and of 10 problems
    changes = {(p["level"], p["accuracy_change"], p["score_change"], p["n"], p["judge"]) for p in points}
    assert changes == {("4", "0.200000", "0.400000", "60", "prm"), ("5", "-0.100000", "0.250000", "20", "prm")}
    with (run.out / "figures/reward_hacking_steps.csv").open() as file:
        (point,) = csv.DictReader(file)
    assert (point["step"], float(point["accuracy"]), float(point["score"])) == ("1", 0.5, 0.5)
    with (run.out / "figures/calibration.csv").open() as file:
        (point,) = csv.DictReader(file)  # two seeds of four steps each, pooled
    assert (float(point["score"]), float(point["observed"]), point["n"]) == (0.95, 0.5, "8")
    # equal seeds: the interval of one shrinks by the root of two, .2 / 1.414
    assert [round(float(point[f"observed_{end}"]), 3) for end in ("low", "high")] == [0.359, 0.641]
    assert run.results["seeds"] == 2
    report.show(run.out)
    assert "ppo_prm" in capsys.readouterr().out


def test_one_seed_and_nothing_but_outcomes(tmp_path):
    config, run = stage_run(tmp_path, seeds=(3,))
    for name in ("quality.json", "policies.json", "solutions.jsonl"):
        (run.paths("@evaluate")[0] / name).unlink()
    report.main(config, run)
    assert {row["seed"] for row in json.loads((run.out / "results.json").read_text())["rows"]} == {3}
    assert not (run.out / "figures/reward_hacking.csv").exists()


def test_same_inputs_same_bytes(tmp_path):
    made = []
    for name in ("a", "b"):
        config, run = stage_run(tmp_path / name, seeds=(0,))
        report.main(config, run)
        made.append({f.relative_to(run.out): f.read_bytes() for f in run.out.rglob("*") if f.is_file()})
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluations": []}, "evaluations is empty"),
        ({"easy_levels": [1, 2, 3, 4, 5]}, "not all"),
        ({"draws": 10}, "at least 100"),
        ({"comparison": []}, "did you mean 'comparisons'"),
        ({"gaps": [{"student": {"policy": "a"}, "weak": {"polic": "b"}}]}, "unknown key 'polic'"),
    ],
)
def test_wrong_settings_are_named(change, words):
    with pytest.raises(ConfigError, match=words):
        build(report.Config, {"evaluations": ["@evaluate"]} | change, "report.yaml")


def test_an_unfinished_evaluation_is_named(tmp_path):
    config, run = stage_run(tmp_path, seeds=(0,))
    (run.paths("@evaluate")[0] / "done.json").unlink()
    with pytest.raises(ConfigError, match="folder of a finished stage; give '@STAGE'"):
        report.main(config, run)


def test_curves_of_rounds_follow_one_another(tmp_path):
    rows = [{"step": 10, "train/loss": 0.9}, {"step": 20, "train/loss": 0.8}, {"validation/loss": 3.0}]
    rows += [{"step": 10, "train/loss": 0.7}, {"step": 11, "eval/accuracy_level_1": 0.5, "eval/accuracy_level_3": 1.0}]
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {"stage": "dpo", "name": "dpo", "seed": 1, "folder": "dpo"}
    points = sources.training_curves(tmp_path, [record, {"stage": "rest", "name": "r", "seed": 1, "folder": "gone"}])
    assert [(p["step"], p["metric"], p["value"]) for p in points] == [
        (10, "train/loss", 0.9),
        (20, "train/loss", 0.8),
        (30, "train/loss", 0.7),
        (31, "eval/accuracy_easy", 0.75),
    ]


def test_rollouts_carry_their_problem_and_what_is_known_of_them(tmp_path):
    for name in ("prepare", "ppo"):
        (tmp_path / name).mkdir()
    (tmp_path / "prepare/problems_train.jsonl").write_text('{"problem_id": "p1", "problem": "1+1=?"}\n')
    kept = {"step": 0, "problem_id": "p1", "level": 4, "text": "2", "step_scores": [0.9, 0.2]}
    lines = [json.dumps(kept | {"outcome": outcome}) + "\n" for outcome in (None, 0.0, 1.0)]
    (tmp_path / "ppo/rollouts.jsonl").write_text("".join(lines))
    manifest = [{"stage": name, "name": name, "seed": 0, "folder": name} for name in ("prepare", "ppo")]
    rows = sources.training_rollouts(tmp_path, manifest)
    assert [row["correct"] for row in rows] == [None, False, True]
    assert {(row["problem"], row["score"], row["policy"]) for row in rows} == {("1+1=?", 0.2, "ppo")}
