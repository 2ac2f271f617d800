"""The `assess` stage on PRM800K-like rows, with a reward model trained in the same recipe."""

import json

import pytest

from reward_models.score import Scorer
from rlhf_e2h.data.firewall import read_problems
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe

PREPARE = "stage: prepare\nsource: procedural\ntrain_per_level: [4, 4, 2, 2, 2]\ntest_per_level: [2, 0, 0, 2, 0]\n"
REWARD = (
    'stage: reward\nkind: prm\nbase: "asset:base"\ndata: "@prepare"\nrecords: FOLDER/steps.jsonl\nheld_out: 0.3\n'
    "training: {learning_rate: 1e-3, num_train_epochs: 1, batch_size: 4}\n"
)
ASSESS = 'stage: assess\ndata: "@prepare"\nrecords: [FOLDER/people.jsonl]\nreward_models: {prm: "@prm"}\n'


def people(problem, ratings, rejected=None):
    """A PRM800K row of which each step has one completion, and the last one, if given, a rejected one beside it."""
    steps = [
        {"completions": [{"text": f"step {i}", "rating": rating}], "human_completion": None, "chosen_completion": 0}
        for i, rating in enumerate(ratings)
    ]
    if rejected:
        steps[-1]["completions"].append({"text": rejected, "rating": -1})
    return {"question": {"problem": problem, "ground_truth_answer": "1"}, "label": {"steps": steps}}


@pytest.fixture
def recipe(tmp_path):
    folder = tmp_path / "recipe"
    folder.mkdir()
    steps = [{"problem": f"{i} + 1", "steps": ["a", "b"], "labels": [1, i % 2]} for i in range(12)]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    (tmp_path / "people.jsonl").write_text(json.dumps(people("of another set", [1])) + "\n")
    (folder / "recipe.yaml").write_text(f"name: small\nruns: {tmp_path / 'runs'}\n")
    for name, text in (("1_prepare", PREPARE), ("5_prm", REWARD), ("6_assess", ASSESS)):
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(tmp_path)))
    return folder


def test_quality_by_group_is_that_of_the_scores(recipe, tmp_path):
    with pytest.raises(ConfigError, match="none of the 1 labelled solutions is of a test problem"):
        run_recipe(load_recipe(recipe))
    (prepared,) = (tmp_path / "runs/prepare").iterdir()
    problems = {row["level"]: row["problem"] for row in read_problems(prepared, "test")}
    rows = [
        people(problems[1], [1, 1, 1], rejected="no"),
        people(problems[4], [1, -1]),
        people(problems[4], [0, 1, 1, -1]),
    ]
    with (tmp_path / "people.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    run_recipe(load_recipe(recipe))
    (out,) = (path.parent for path in (tmp_path / "runs/assess").rglob("quality.json"))
    quality = json.loads((out / "quality.json").read_text())["prm"]
    assert {name: group["records"] for name, group in quality.items()} == {
        "easy": 2,
        "hard": 2,
        "all": 4,
        "1": 2,
        "4": 2,
    }
    # the AUC of the hard ones as the share of (right step, wrong step) pairs in order; a rating of 0 is right
    (model,) = (path.parent for path in (tmp_path / "runs/prm").rglob("done.json"))
    # read in one batch, as the stage does: another batch rounds otherwise, and these scores lie close together
    texts = [
        (1, ["step 0", "step 1", "step 2"]),
        (1, ["step 0", "step 1", "no"]),
        *((4, [f"step {i}" for i in range(n)]) for n in (2, 4)),
    ]
    together = [(problems[level], steps) for level, steps in texts]
    path, rejected, *scores = [one.steps for one in Scorer.from_pretrained(model).score_stream(together)]
    right, wrong = [scores[0][0], *scores[1][:3]], [scores[0][1], scores[1][3]]
    pairs = [(r > w) + (r == w) / 2 for r in right for w in wrong]
    assert quality["hard"]["step_auc"] == pytest.approx(sum(pairs) / len(pairs))
    # what the rejected step follows is right, so the first error is known although the record rates one step
    below = [score < 0.5 for score in rejected]
    found = {"error": float(below == [False, False, True]), "correct": float(min(path) >= 0.5)}
    assert quality["easy"]["first_error"] == {**found, "f1": float(all(found.values()))}
    low, high = quality["all"]["intervals"]["step_auc"]
    assert low <= quality["all"]["step_auc"] <= high
    done = json.loads((out / "done.json").read_text())["results"]
    assert (done["solutions"], done["problems"], done["not_of_this_split"]) == (4, 2, 1)
