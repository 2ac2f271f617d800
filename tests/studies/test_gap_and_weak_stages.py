"""Difficulty, gap and weak-to-strong as a user runs them, on a tiny random model and made-up samples; a poison test."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from reward_models.records import read_jsonl, write_jsonl
from reward_models.score import Scorer
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.firewall import SEALED_LABELS, FirewallError, write_split
from rlhf_e2h.data.procedural import make_problems
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import read_done
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy

FIT = "{learning_rate: 1e-3, num_train_epochs: 1, batch_size: 16, held_out: 0.2}"
FIT_BF16 = FIT.replace("}", ", bf16: true}")  # the stage crashed under it on processors that have bf16
WEAK = {
    "4_weak_to_strong.yaml": f"""
stage: weak_to_strong
data: DATA
base: MODEL
weak_layers: 1
easy: FOLDER/easy
transfer: FOLDER/train
bank: FOLDER/bank
weak_fit: {FIT_BF16}
fit: {FIT_BF16}
students:
  xent: {{}}
  topo: {{loss: {{name: logconf, warmup: 2}}, probe: {{kind: topo, use: filter, k: 3}}}}
  knn: {{probe: {{kind: knn, use: predict, k: 3}}}}
  rounds: {{rounds: 1, loss: {{name: window, radius: null}}, probe: {{kind: logistic, use: relabel}}}}
""",
    "4_ceiling_full.yaml": f"""
stage: weak_to_strong
supervision: truth
data: DATA
base: MODEL
transfer: FOLDER/train
bank: FOLDER/bank
fit: {FIT_BF16}
""",
    "5_findings.yaml": """
stage: findings
weak_to_strong: "@weak_to_strong"
ceiling: "@ceiling_full"
graded: FOLDER/bank
data: DATA
draws: 200
""",
}
GAP = {
    "2_difficulty_full.yaml": """
stage: difficulty
data: DATA
labels: full
model: MODEL
graded: FOLDER/train
sizes: [4, 8]
repeats: 1
""",
    "3_gap_full.yaml": f"""
stage: gap
base: MODEL
data: DATA
graded: FOLDER/train
bank: FOLDER/bank
difficulty: "@difficulty_full"
measure: level
easy_max: 2
hard_min: 4
methods: [icl, probe, sft, rm, prm]
train_on: [none, easy, hard]
step_labels: procedural
n: 6
shots: 2
curve: [3]
noise: [0.3]
max_new_tokens: 4
training: {{max_steps: 1, batch_size: 4}}
fit: {FIT}
policies: {{rl/easy: MODEL}}
""",
    "4_findings.yaml": 'stage: findings\ngap: "@gap_full"\ndraws: 200\n',
    "4_again.yaml": 'stage: findings\ngap: "@gap_full"\ndraws: 100\n',
    "5_report.yaml": 'stage: report\nsections: ["@findings", "@again"]\n',
}


def solutions(rows, n, seed):
    """n sampled-looking solutions of each problem, about half of them right."""
    rng = np.random.default_rng(seed)
    for row in rows:
        for k in range(n):
            right = bool(rng.random() < 0.5)
            answer = row["answer"] if right else str((int(row["answer"]) + 1 + k % 4) % 5)
            text = row["solution"].rsplit("\n\n", 1)[0].replace("=", "=" * (1 + k % 2)) + f"\n\n{answer}"
            yield {
                "problem_id": row["problem_id"], "sample_id": k, "text": text, "answer": answer, "finished": True,
                "correct": right, "reason": "made up",
            }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, a prepared folder, graded samples and a bank; `poisoned` has garbage for every hard truth."""
    root = tmp_path_factory.mktemp("studies")
    save_policy(*new_llama(ModelShape(16, 2, 16, 2, 256), "procedural", 0), root / "model")
    train = make_problems(dict.fromkeys(range(1, 6), 10), 1)
    test = make_problems({1: 2, 3: 2, 4: 6, 5: 6}, 2, {row["problem"] for row in train})
    for name in ("clean", "poisoned"):
        folder = root / name
        poison = name == "poisoned"
        examples = {"train": [_example(r, poison) for r in train], "test": [_example(r, poison) for r in test]}
        write_split(_folder(folder / "data"), examples)
        graded = list(solutions(train, 3, 3))
        hard = {r["problem_id"] for r in train if r["level"] in (4, 5)}
        if poison:
            graded = [{**r, "correct": not r["correct"]} if r["problem_id"] in hard else r for r in graded]
        write_jsonl(folder / "easy" / "graded.jsonl", [r for r in graded if r["problem_id"] not in hard])
        for kind in ("train", "bank"):
            rows = graded if kind == "train" else list(solutions(test, 3, 4))
            write_jsonl(folder / kind / "graded.jsonl", rows)
            keep = ("problem_id", "sample_id", "text", "answer", "finished")
            write_jsonl(folder / kind / "samples.jsonl", [{k: r[k] for k in keep} for r in rows])
    return root


def _folder(path):
    path.mkdir(parents=True)
    return path


def _example(row, poison):
    garbage = {"answer": "99", "solution": "garbage\n\n# Answer\n\n99"} if poison and row["level"] in (4, 5) else {}
    fields = ("problem_id", "problem", "level", "subject", "answer", "solution", "source")
    return Example(**{k: {**row, **garbage}[k] for k in fields})


def run(made: Path, files: dict[str, str], name="clean", seeds="[0]", only=None, overrides=()):
    folder = made / name
    recipe = made / f"recipe-{name}-{len(files)}-{Path(next(iter(files))).stem}"
    recipe.mkdir(exist_ok=True)
    (recipe / "recipe.yaml").write_text(f"name: studies\nseeds: {seeds}\nruns: {recipe}/runs\n")
    for file, text in files.items():
        for key, value in (("FOLDER", folder), ("DATA", folder / "data"), ("MODEL", made / "model")):
            text = text.replace(key, str(value))
        (recipe / file).write_text(text)
    run_recipe(load_recipe(recipe, list(overrides)), only)
    return recipe / "runs"


def stage_folder(runs: Path, stage: str) -> Path:
    return min((runs / stage).iterdir(), key=lambda folder: read_done(folder)["seed"])


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def no_nan(folder: Path) -> None:
    for path in folder.glob("*.csv"):
        assert not {"nan", "inf", "-inf"} & {cell.lower() for row in table(folder, path.name) for cell in row.values()}


@pytest.fixture(scope="module")
def weak(made):
    return run(made, WEAK, seeds="[0, 1]")


def test_weak_to_strong_from_labels_to_table(weak):
    folder = stage_folder(weak, "weak_to_strong")
    methods = {row["method"] for row in read_jsonl(folder / "scores.jsonl")}
    assert methods == {"weak", "xent", "topo", "knn", "rounds"}
    assert all(math.isclose(sum(row["soft_pred"]), 1) for row in read_jsonl(folder / "predictions.jsonl"))
    topo = json.loads((folder / "filters.json").read_text())["topo"]
    # the component step may remove more than the tenth; then the neighbour step removes nothing
    assert topo["removed"] == max(round(0.1 * topo["of"]), topo["by_component"])
    assert json.loads((folder / "models" / "weak" / "config.json").read_text())["num_hidden_layers"] == 1
    found = stage_folder(weak, "findings")
    rows = table(found, "weak_to_strong_levels.csv")
    assert {r["method"] for r in rows} == methods | {"ceiling"}
    assert all(r["value"] or r["pgr_null_because"] for r in rows)
    empty = [r for r in rows if r["test_on"] == "level 2"]
    assert empty and all(r["pgr_null_because"] == "no problems of this level" for r in empty)
    assert (found / "weak_to_strong.svg").is_file() and (found / "section.json").is_file()
    no_nan(found)


def test_poisoned_hard_truth_leaves_weakly_supervised_weights_alone(made, weak):
    poisoned = run(made, WEAK, "poisoned", only="weak_to_strong")
    clean_files, poisoned_files = (
        read_done(stage_folder(runs, "weak_to_strong"))["files"] for runs in (weak, poisoned)
    )
    weights = [name for name in clean_files if name.endswith(".safetensors")]
    assert len(weights) == 4  # supervisor and three trained students
    assert clean_files == poisoned_files
    # the control: the poison did arrive, and a ceiling that reads it is another model
    run(made, WEAK, "poisoned", only="ceiling_full")
    name = "models/ceiling/model.safetensors"
    ceilings = [read_done(stage_folder(runs, "ceiling_full"))["files"][name] for runs in (weak, poisoned)]
    assert ceilings[0] != ceilings[1]


def test_the_supervisor_has_a_budget_of_its_own(made):
    files = {"4_weak_to_strong.yaml": WEAK["4_weak_to_strong.yaml"] + "limit: 9\nweak_limit: 5\n"}
    folder = stage_folder(run(made, files), "weak_to_strong")
    assert read_done(folder)["notes"]["supervisor_learns_from"] == "5 solutions"
    assert len(read_jsonl(folder / "predictions.jsonl")) == 9


def test_weak_to_strong_on_steps(made):
    """Every step of every solution has a label; a probe may drop some; a sample scores as its worst step."""
    files = {"4_weak_to_strong.yaml": WEAK["4_weak_to_strong.yaml"] + "step_labels: procedural\n"}
    folder = stage_folder(run(made, files), "weak_to_strong")
    problems = {row["problem_id"]: row for row in read_jsonl(made / "clean" / "data" / "problems_train.jsonl")}
    samples = {
        (row["problem_id"], row["sample_id"]): row for row in read_jsonl(made / "clean" / "train" / "samples.jsonl")
    }
    predictions = read_jsonl(folder / "predictions.jsonl")
    for row in predictions:
        assert problems[row["problem_id"]]["level"] in (4, 5)
        steps = SECTIONS.split_steps(samples[row["problem_id"], row["sample_id"]]["text"])
        assert len(row["step_soft_pred"]) == len(steps) and all(math.isclose(sum(p), 1) for p in row["step_soft_pred"])
    topo = json.loads((folder / "filters.json").read_text())["topo"]
    of_all = sum(len(row["step_soft_pred"]) for row in predictions)
    # steps, not solutions; those of held-out problems are not learnt from
    assert len(predictions) < topo["of"] < of_all and topo["removed"] > 0
    config = json.loads((folder / "models" / "weak" / "config.json").read_text())
    assert config["step_contract"]["kind"] == "prm"
    bank = {(r["problem_id"], r["sample_id"]): r for r in read_jsonl(made / "clean" / "bank" / "samples.jsonl")}
    tests = {row["problem_id"]: row["problem"] for row in read_jsonl(made / "clean" / "data" / "problems_test.jsonl")}
    scorer = Scorer.from_pretrained(folder / "models" / "xent")
    for row in [r for r in read_jsonl(folder / "scores.jsonl") if r["method"] == "xent"][:5]:
        text = bank[row["problem_id"], row["sample_id"]]["text"]
        (again,) = scorer.score(tests[row["problem_id"]], [SECTIONS.split_steps(text)])
        assert row["score"] == pytest.approx(min(again.steps), abs=1e-5)


def test_gap_from_arms_to_figures(made):
    runs = run(made, GAP)
    folder = stage_folder(runs, "gap_full")
    items = read_jsonl(folder / "items.jsonl")
    cells = {(r["method"], r["train_on"], r["n"], r["noise"]) for r in items}
    assert {("probe", "hard", 6, 0.3), ("probe", "easy", 3, 0.0), ("rl", "easy", 0, 0.0)} <= cells
    assert len(items) == 16 * len(cells)
    # without labels in context and fine-tuned are the base, and judges choose at random
    untrained = {m: [r["correct"] for r in items if (r["method"], r["train_on"]) == (m, "none")] for m, *_ in cells}
    assert untrained["icl"] == untrained["sft"] and untrained["rm"] == untrained["prm"] == untrained["probe"]
    assert SEALED_LABELS in {r["file"] for r in read_done(folder)["labels_read"]}
    measured = read_jsonl(stage_folder(runs, "difficulty_full") / "difficulty.jsonl")
    assert len(measured) == 50 and {r["answer_nll_group"] for r in measured} == {"easy", "medium", "hard"}
    assert all(0 < r["mdl_probe"] < 1 and r["prequential_bits"] > 0 and r["answer_nll"] > 0 for r in measured)
    found = stage_folder(runs, "findings")
    for name in ("gap", "cost_probe", "noise_probe", "heat_probe"):
        assert (found / f"{name}.svg").is_file() and (found / f"{name}.csv").is_file()
    assert all(r["sgr"] or r["null_because"] for r in table(found, "gap_sgr.csv"))
    no_nan(found)
    page = (stage_folder(runs, "report") / "report.html").read_text()
    assert "All cells (findings)" in page and "All cells (again)" in page


def test_more_problems_than_there_are_stops_before_training(made):
    with pytest.raises(ValueError, match="arm 'easy' has 20 problems, n is 30; lower n"):
        run(made, GAP, only="gap_full", overrides=["gap_full.n=30"])


def test_hard_labels_need_a_name_that_says_so(made):
    files = {"3_gap.yaml": GAP["3_gap_full.yaml"].replace('difficulty: "@difficulty_full"\n', "")}
    with pytest.raises(FirewallError, match="may not read"):
        run(made, files, only="gap")
