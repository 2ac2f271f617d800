"""A reward model that has learnt nothing says so on its stage's line."""

import json
import math
import random

import pytest

from reward_models.records import Stepwise
from rlhf_e2h.cli import main
from rlhf_e2h.training.chance import at_chance, auc_interval


def test_interval_by_hand():
    # Hanley and McNeil 1982: A = .5, n1 = n2 = 10: Q1 = Q2 = 1/3, var = (.25 + 18 * (1/3 - 1/4)) / 100 = .0175
    low, high = auc_interval(0.5, 10, 10)
    assert (low, high) == pytest.approx((0.5 - 1.96 * math.sqrt(0.0175), 0.5 + 1.96 * math.sqrt(0.0175)))
    assert auc_interval(1.0, 5, 5) == (1.0, 1.0)


def _orm(right: int, wrong: int) -> list[Stepwise]:
    return [Stepwise("p", ["s"], None, outcome) for outcome in [1] * right + [0] * wrong]


@pytest.mark.parametrize(
    ("auc", "right", "wrong", "spread", "said"),
    [
        (0.55, 40, 40, 0.1, "it ended at chance: outcome AUC 0.55"),
        (0.75, 40, 40, 0.1, None),
        (0.75, 4, 4, 0.1, "it ended at chance"),  # too few to tell
        (0.9, 40, 40, 0.001, "it has learnt next to nothing"),
        (None, 40, 0, 0.1, None),
    ],
)
def test_when_it_warns(auc, right, wrong, spread, said):
    found = at_chance("orm", {"outcome_auc": auc, "score_spread": spread}, _orm(right, wrong), 0.69)
    assert (found is None) if said is None else found.startswith(said)


def test_a_prm_on_random_labels_warns_beneath_its_line(tmp_path, capsys):
    world = random.Random(0)
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "recipe.yaml").write_text("name: small\nthreads: 1\nvariables: {records: none.jsonl}\n")
    (recipe / "1_prepare.yaml").write_text("stage: prepare\nsource: procedural\ntrain_size: 60\ntest_size: 5\n")
    (recipe / "2_prm.yaml").write_text(
        'stage: reward\nkind: prm\nbase: "asset:base"\ndata: "@prepare"\nrecords: "${records}"\nheld_out: 0.4\n'
        "training: {num_train_epochs: 1, batch_size: 8, learning_rate: 1e-5}\n"
    )
    runs = f"runs={tmp_path / 'runs'}"
    assert main(["run", str(recipe), runs, "--only", "prepare"]) == 0
    (file,) = (tmp_path / "runs").glob("prepare/*/problems_train.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    records = tmp_path / "records.jsonl"
    with records.open("w") as out:
        for row in rows:
            steps = [f"a={number}" for number in range(4)]
            labels = [world.randint(0, 1) for _ in steps]
            out.write(json.dumps({"problem": row["problem"], "steps": steps, "labels": labels}) + "\n")
    capsys.readouterr()
    assert main(["run", str(recipe), runs, "--only", "prm", f"records={records}"]) == 0
    said = capsys.readouterr().err
    assert "warning: it " in said and ("learnt next to nothing" in said or "ended at chance" in said)
