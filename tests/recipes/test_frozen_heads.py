"""Studies on frozen states: trees, the states of a tree, heads, tables, and the recipe's stages on made-up labels."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.firewall import FULL_STEPWISE, write_split
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.studies.probing import tuned_transfer
from rlhf_e2h.studies.probing.heads import HeadSettings, chosen_penalty, fit_head, reduced
from rlhf_e2h.studies.probing.probe_people import disagreement
from rlhf_e2h.studies.probing.state_files import in_both, read_states, write_states
from rlhf_e2h.studies.probing.states import TreeReader
from rlhf_e2h.studies.probing.surface import surface
from rlhf_e2h.studies.probing.tables import auc_rows
from rlhf_e2h.studies.probing.transfer_tasks import tests as paired
from rlhf_e2h.studies.probing.trees import OUTCOMES, STEPS, Label, Tree, choose, step_trees
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama, save_policy

MARK = "# Answer"


def rated(*steps, labels=None, ratings=None):
    labels = labels or [None] * len(steps)
    return {"problem": "1+2", "steps": list(steps), "labels": labels, "ratings": ratings or labels}


def test_steps_that_solutions_share_are_one_node_and_answers_have_no_step_label():
    rows = [
        rated("a", "b", f"{MARK}\n\n3", labels=[1, 1, 1], ratings=[1, 0, 1]),
        rated("a", "c", labels=[None, 0], ratings=[None, -1]),
        rated("a", "d", "e", labels=[None, None, 1]),
    ]
    tree = step_trees(rows, MARK)["1+2"]
    assert tree.steps == ["a", "b", f"{MARK}\n\n3", "c", "d", "e"] and tree.parents == [-1, 0, 1, 0, 0, 4]
    # b stands just before an answer and was rated with it
    found = [tree.label(node, STEPS) for node in range(6)]
    assert found == [Label(STEPS, 1, 1), None, None, Label(STEPS, 0, -1), None, Label(STEPS, 1, 1)]
    pruned, places = tree.pruned([5, 3])
    assert pruned.steps == ["a", "c", "d", "e"] and pruned.parents == [-1, 0, 0, 2] and places == [3, 1]


def test_labels_that_contradict_each_other_count_as_none():
    rows = [rated("a", labels=[1]), rated("a", labels=[0]), rated("b", labels=[1]), rated("b", labels=[1])]
    tree = step_trees(rows, MARK)["1+2"]
    assert tree.label(0, STEPS) is None and tree.label(1, STEPS) == Label(STEPS, 1, 1) and tree.contradicting() == 1


def test_half_of_each_class_is_chosen_as_far_as_there_are_enough():
    tree = Tree("p")
    for number in range(12):
        tree.labels[tree.add([f"s{number}"])[0]].append(Label(STEPS, int(number > 1)))
    chosen = choose(tree, STEPS, 6, np.random.default_rng(0))
    assert len(chosen) == 6 and chosen[:2] == [0, 1] and choose(tree, OUTCOMES, 6, np.random.default_rng(0)) == []


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_policy(*new_llama(ModelShape(16, 3, 32, 2, 256), "byte", 0), folder)
    return folder


@pytest.mark.parametrize("layer", ["middle", "last"])
def test_a_tree_is_read_as_its_solutions_are(model, layer):
    tree = Tree("1+2")
    for steps in (["1+2=3", "3+1=4"], ["1+2=3", "3+1=0", "0+0=0"], ["2+1=3"]):
        tree.add(steps)
    reader = TreeReader(model, layer, bf16=False)
    states = reader.read(tree, range(len(tree.steps)))
    whole, _ = load_policy(model)
    head, own, scored = reader.encode(tree)
    for node in range(len(tree.steps)):
        ids = head + [i for step in tree.path(node) for i in own[step]]
        hidden = whole(torch.tensor([ids]), output_hidden_states=True).hidden_states[2 if layer == "middle" else 3]
        expected = hidden[0, len(ids) - len(own[node]) + scored[node]].detach().numpy()
        assert np.allclose(states[node], expected, atol=1e-5)


def blobs(rng, n=300, dims=6):
    """States that tell right from wrong along their first dimension, three items a problem."""
    right = rng.random(n) < 0.5
    x = rng.normal(size=(n, dims))
    x[:, 0] += np.where(right, 1.5, -1.5)
    return x, right, [f"p{i // 3}" for i in range(n)]


def test_a_head_learns_each_loss_and_xent_comes_where_a_solver_does():
    rng = np.random.default_rng(0)
    x, right, names = blobs(rng)
    soft = np.where(right, 0.8, 0.3)
    penalty = chosen_penalty(x, soft, names)
    for loss in ("xent", "logconf", "entropy", "window", "kl"):
        head = fit_head(x, soft, penalty, loss)
        assert ((head.predict(x) > np.median(head.predict(x))) == right).mean() > 0.85, loss
    from rlhf_e2h.studies.probes import fit_logistic

    solved, trained = fit_logistic(x, soft, 0.03), fit_head(x, soft, 0.03, settings=HeadSettings(epochs=100))
    assert np.allclose(solved.weights, trained.weights, atol=0.05) and solved.bias == pytest.approx(
        trained.bias, abs=0.05
    )


def test_components_are_found_on_the_chosen_rows():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 8)) * np.array([9, 5, 1, 1, 1, 1, 1, 1])
    fit_on = np.arange(50) < 40
    found = reduced(x, fit_on, 2)
    assert found.shape == (50, 2) and np.allclose(found[fit_on].std(0), 1)
    x[~fit_on] *= 100  # what is not chosen changes nothing for the others
    assert np.allclose(np.abs(reduced(x, fit_on, 2)[fit_on]), np.abs(found[fit_on]), atol=1e-6)


def test_auc_rows_give_the_ratio_of_gaps_and_say_where_there_is_none():
    right = np.array([1, 0] * 40, dtype=bool)
    rng = np.random.default_rng(2)
    names = [f"p{i // 4}" for i in range(80)]

    def scored(strength):
        return right * strength + rng.normal(size=80)

    scores = [{"floor": scored(0.5), "mid": scored(1.5), "top": scored(3.0)} for _ in range(3)]
    rows = {row["method"]: row for row in auc_rows(scores, right, names, ("floor", "top"), "pgr", 500)}
    expected = [
        np.mean([(s[m][right][:, None] > s[m][~right]).mean() for s in scores]) for m in ("floor", "mid", "top")
    ]
    assert [rows[m]["auc"] for m in ("floor", "mid", "top")] == pytest.approx(expected)
    assert rows["mid"]["pgr"] == pytest.approx((expected[1] - expected[0]) / (expected[2] - expected[0]))
    assert rows["mid"]["over_floor"] == pytest.approx(expected[1] - expected[0])
    assert rows["mid"]["over_top"] == pytest.approx(expected[1] - expected[2])
    assert rows["mid"]["top_low"] < expected[1] - expected[2] < rows["mid"]["top_high"] < 0
    same = [{"floor": s["mid"], "mid": s["mid"], "top": s["mid"]} for s in scores]
    null = {row["method"]: row for row in auc_rows(same, right, names, ("floor", "top"), "pgr", 500)}["mid"]
    assert null["pgr"] is None and "contains 0" in null["pgr_null_because"]


def test_methods_are_paired_over_tasks():
    table = [{"task": t, "method": m, "auc": v} for t, a, b in (("x", 0.7, 0.6), ("y", 0.8, 0.75), ("z", 0.6, 0.58))
             for m, v in (("xent", b), ("logconf", a))]  # fmt: skip
    (row,) = paired(table)
    assert row["method"] == "logconf" and row["better_on"] == 3 and row["tasks"] == 3
    assert row["difference"] == pytest.approx((0.1 + 0.05 + 0.02) / 3) and row["wilcoxon_p"] == pytest.approx(0.25)


def test_disagreement_is_found_where_neutral_steps_vary_most():
    rows = [{"problem_id": f"p{i // 4}", "rating": (0, 1, -1, 1)[i % 4]} for i in range(80)]
    neutral = np.array([row["rating"] == 0 for row in rows])
    values = {name: neutral + 0.01 * np.arange(80) for name in ("variability", "threshold_closeness")}
    values["confidence"] = np.arange(80) / 80.0
    found = {(r["question"], r["measure"]): r["auc"] for r in disagreement(rows, values, 200)}
    assert found["0 against +1 and -1", "variability"] > 0.9
    assert found["0 against +1 and -1", "low confidence"] == pytest.approx(0.5, abs=0.1)
    assert len(found) == 6


def test_the_control_reads_no_more_than_the_surface():
    item = {"step": 0, "text": "So 1+2=3.", "before": "", "problem": "1+2"}
    rows = surface([item, {**item, "text": "Yes"}, {**item, "text": "No?"}])
    same = surface([item, {**item, "text": "Hey"}, {**item, "text": "Oh?"}])
    assert np.allclose(rows[0], same[0]) and np.allclose(rows.mean(0), 0)


def _problems(folder, n=30):
    examples = [Example(f"p{i}", f"{i}+1", 1 + i % 5, "", str(i + 1), f"{i}+1={i + 1}", "made") for i in range(n)]
    write_split(folder, {"train": examples, "test": []})
    return examples


def _rated_rows(examples):
    """Wrong steps end in 0, which a tokenizer of digits sees at once; the answer stands in two of five solutions."""
    for example in examples:
        steps = [f"{example.problem}={example.answer}", "1+1=2", "2+2=4"]
        yield {"problem": example.problem, "steps": steps, "labels": [1, 1, 1], "ratings": [1, 0, 1], "level": 1}
        for number in (3, 4, 5):
            row = {"problem": example.problem, "steps": [steps[0], f"{number}+1=0"], "level": 1}
            yield {**row, "labels": [None, 0], "ratings": [None, -1]}
        for answer in (example.answer, "999"):
            right = answer == example.answer
            row = {"problem": example.problem, "steps": [steps[0], f"{MARK}\n\n{answer}"], "level": 1}
            yield {**row, "labels": [None, int(right)], "ratings": [None, 1 if right else -1]}


def _graded_rows(examples):
    for example in examples:
        for number, answer in enumerate((example.answer, "0", "00", "000")):
            text = f"{example.problem}={answer}\n\n{MARK}\n\n{answer}"
            yield {"problem_id": example.problem_id, "sample_id": number, "text": text, "answer": answer,
                   "finished": True, "correct": number == 0}  # fmt: skip


@pytest.fixture(scope="module")
def recipe_runs(model, tmp_path_factory):
    """The recipe with made-up labels in place of PRM800K's and GSM8K's, a tiny model in place of both."""
    from pathlib import Path

    root = tmp_path_factory.mktemp("frozen")
    folder = root / "frozen-0.5b"
    shutil.copytree(Path(__file__).parents[2] / "recipes" / "frozen-0.5b", folder)
    for name in ("1_prepare.yaml", "1_gsm8k.yaml", "2_prm800k.yaml", "README.md"):
        (folder / name).unlink(missing_ok=True)
    data = root / "data"
    data.mkdir()
    examples = _problems(data)
    write_jsonl(data / FULL_STEPWISE, _rated_rows(examples))
    write_jsonl(root / "bank.jsonl", _graded_rows(examples))
    for file in folder.glob("*.yaml"):
        text = file.read_text()
        for name in ("prepare", "gsm8k", "prm800k"):
            text = text.replace(f'"@{name}"', f'"{data}"')
        file.write_text(text)
    settings = ["size=smoke", f"weak={model}", f"strong={model}", f"gsm8k_bank={root / 'bank.jsonl'}", "bf16=false"]
    recipe = load_recipe(folder, [*settings, f"runs={root / 'runs'}", "steps_per_problem=6"])
    run_recipe(recipe)
    return {file.parents[1].name: file.parent for file in (root / "runs").rglob("done.json")}


def test_the_recipe_runs_whole_and_says_what_it_read(recipe_runs):
    items, states = read_states(recipe_runs["math_strong_full"])
    assert {item["kind"] for item in items} == {STEPS, OUTCOMES} and states.shape == (len(items), 16)
    verdicts = {item["text"].split()[-1] == "999": item["label"] for item in items if item["kind"] == OUTCOMES}
    assert verdicts == {True: 0, False: 1}  # by the checker, not by people
    done = json.loads((recipe_runs["math_strong_full"] / "done.json").read_text())
    assert FULL_STEPWISE in {row["file"] for row in done["labels_read"]}
    for stage, section in (
        ("weak_to_strong_full", "probe_transfer"),
        ("gap_full", "probe_gap"),
        ("people_full", "people"),
    ):
        assert (recipe_runs[stage] / f"{section}.csv").is_file(), stage
    planted = json.loads((recipe_runs["mislabel_planted_full"] / "done.json").read_text())["results"]
    assert 0 <= planted["auc"] <= 1
    assert (recipe_runs["people_full"] / "finds.md").read_text().startswith("| p(wrong) |")


TUNED = ("math_items_full", "gsm8k_items_full", "tuned_full")


def test_models_are_trained_on_the_same_tasks_and_a_finished_one_is_not_trained_again(recipe_runs, model, monkeypatch):
    """The ceiling learns that wrong steps end in 0; its supervisor has 20 items of that."""
    root = recipe_runs["gap_full"].parents[1].parent
    fast = [f"tuned_full.{fit}={{learning_rate: 1e-2, num_train_epochs: 15, batch_size: 8, share_prefixes: true, "
            "per_device_train_batch_size: 8, max_length: 200}" for fit in ("fit", "weak_fit")]  # fmt: skip
    settings = ["size=smoke", f"weak={model}", f"strong={model}", f"gsm8k_bank={root / 'bank.jsonl'}", "bf16=false"]
    recipe = load_recipe(
        root / "frozen-0.5b", [*settings, f"runs={root / 'runs'}", "steps_per_problem=6", "tuned_items=60", *fast]
    )
    for name in TUNED[:2]:
        run_recipe(recipe, only=name)
    trained = []
    real = tuned_transfer.fit_soft

    def counted(*given, **named):
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append(given[3])
        return real(*given, **named)

    monkeypatch.setattr(tuned_transfer, "fit_soft", counted)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, only="tuned_full")
    monkeypatch.setattr(tuned_transfer, "fit_soft", lambda *given, **named: trained.append(1) or real(*given, **named))
    run_recipe(recipe, only="tuned_full")
    assert len(trained) == 3 * 5  # supervisor, direct, two students and the ceiling of three tasks, each once
    (file,) = (root / "runs").rglob("tuned_transfer.csv")
    rows = list(csv.DictReader(file.open()))
    auc = {(row["task"], row["method"]): float(row["auc"]) for row in rows}
    assert {method for _, method in auc} == {"surface", "weak", "direct", "xent", "logconf", "ceiling"}
    assert auc["math_steps", "ceiling"] > 0.9 > 0.5 < auc["math_steps", "xent"]
    assert all(row["pgr"] or row["pgr_null_because"] for row in rows if row["method"] == "xent")


def test_planted_flips_are_the_same_in_both_runs_and_injected_ones_are_others(recipe_runs):
    clean = {row["guid"]: row["label"] for row in read_jsonl(recipe_runs["dynamics_full"] / "items.jsonl")}

    def flipped(stage):
        rows = read_jsonl(recipe_runs[stage] / "items.jsonl")
        return {row["guid"] for row in rows if row["label"] != clean[row["guid"]]}

    named = {row["guid"] for row in read_jsonl(recipe_runs["injected_planted_full"] / "flips.jsonl")}
    planted = flipped("dynamics_planted_full")
    assert planted and named and not planted & named
    assert flipped("injected_planted_full") == planted | named
    assert {row["guid"] for row in read_jsonl(recipe_runs["dynamics_planted_full"] / "flips.jsonl")} == planted


def test_states_and_items_belong_together(tmp_path):
    item = {"guid": "a", "problem_id": "p", "level": 1, "kind": STEPS, "label": 1, "rating": None}
    write_states(tmp_path, [item], np.zeros((2, 3), dtype=np.float32))
    with pytest.raises(ValueError, match="1 items and 2 states"):
        read_states(tmp_path)


def test_what_one_model_alone_read_is_left_out_of_both_and_counted():
    first = [{"guid": "a"}, {"guid": "b"}, {"guid": "c"}], np.array([[1.0], [2.0], [3.0]])
    second = [{"guid": "c"}, {"guid": "a"}, {"guid": "d"}], np.array([[30.0], [10.0], [40.0]])
    items, (one_ND, other_ND), alone = in_both(first, second)
    assert [item["guid"] for item in items] == ["a", "c"] and alone == 2
    assert one_ND.tolist() == [[1.0], [3.0]] and other_ND.tolist() == [[10.0], [30.0]]
