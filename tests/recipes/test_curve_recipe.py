"""The curve of cartography on the toy: its recipe from end to end, and what its stages refuse."""

import csv
import json
import re
from pathlib import Path

import pytest

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.firewall import write_split
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe

RECIPE = Path(__file__).parents[2] / "recipes" / "data-map-curve"


@pytest.fixture(scope="module", params=[True, False], ids=["bf16", "float32"])
def curve_run(request, tmp_path_factory):
    """Folders of the finished stages, at a size of seconds."""
    runs = tmp_path_factory.mktemp("curve")
    tiny = ["size=smoke", f"bf16={str(request.param).lower()}", f"runs={runs}"]
    run_recipe(load_recipe(RECIPE, tiny))
    return {file.parents[1].name: file.parent for file in runs.rglob("done.json")}


@pytest.mark.slow
def test_steps_are_checked_and_answers_left_out(curve_run):
    items = read_jsonl(curve_run["features"] / "items.jsonl")
    assert {item["kind"] for item in items} == {"steps"} and {item["level"] for item in items} == {1, 2, 3, 4, 5}
    first = [(item["problem_id"], item["text"]) for item in items if item["step"] == 0]
    assert len(set(first)) == len(first) < 3 * 144  # three solutions of each problem share their beginnings
    for item in items:
        if item["label"]:  # what is called right is right modulo 5
            _, left, operator, right, result = re.fullmatch(r"(\w)=(\d)([+*])(\d)=(\d)", item["text"]).groups()
            value = int(left) + int(right) if operator == "+" else int(left) * int(right)
            assert value % 5 == int(result), item["text"]
    assert not json.loads((curve_run["features"] / "done.json").read_text())["labels_read"]


@pytest.mark.slow
def test_the_curve_has_every_share_of_every_subset_and_every_mix(curve_run):
    done = json.loads((curve_run["curve"] / "done.json").read_text())["results"]
    for group in ("hard", "easy"):
        rows = {row["method"]: row for row in csv.DictReader((curve_run["curve"] / f"probe_curve_{group}.csv").open())}
        subsets = ("ambiguous", "hard", "easy", "random")
        mixes = [f"ambiguous with {mix}% easy 17%" for mix in (10, 20, 30, 50)]
        assert set(rows) == {f"{s} {n}%" for s in subsets for n in (5, 17, 50)} | {"all", *mixes}
        for name, row in rows.items():
            # floor(share * n), written out as a whole number over a hundred
            share = 100 if name == "all" else int(name.split()[-1].rstrip("%"))
            assert int(row["labels"]) == share * done["labels"] // 100, name
            assert 0 <= float(row["low"]) <= float(row["auc"]) <= float(row["high"]) <= 1
            assert bool(row["over_low"]) != (name == "all" or name.startswith("random"))
        assert int(rows["all"]["items"]) == done[group]
    mixed = list(csv.DictReader((curve_run["curve"] / "probe_curve_mix.csv").open()))
    assert [float(row["mix"]) for row in mixed if row["test_on"] == "hard"] == [0, 0.1, 0.2, 0.3, 0.5]
    for row in mixed:  # against ambiguous labels alone, the first of each five
        alone = next(float(one["auc"]) for one in mixed if one["test_on"] == row["test_on"])
        assert float(row["over_floor"] or 0) == pytest.approx(float(row["auc"]) - alone, abs=2e-6)
    sections = json.loads((curve_run["curve"] / "section.json").read_text())
    assert [one["figure"] for one in sections] == [f"probe_curve_{n}.svg" for n in ("hard", "easy", "mix")]
    assert "17%: random " in sections[0]["paragraph"] and "nan" not in sections[0]["paragraph"].lower()


def test_other_solutions_cannot_be_checked(tmp_path):
    data, recipe = tmp_path / "data", tmp_path / "recipe"
    data.mkdir()
    recipe.mkdir()
    write_split(data, {"train": [Example("p", "1+1", 1, "", "2", "1+1=2", "made")], "test": []})
    sample = {"problem_id": "p", "sample_id": 0, "text": "1+1=2", "answer": None, "finished": True}
    write_jsonl(data / "samples.jsonl", [sample])
    (recipe / "recipe.yaml").write_text(f"name: x\nruns: {tmp_path}/runs\n")
    stage = f"stage: probe_features\nmodel: asset:base\ndata: {data}\nsamples: {data}\n"
    (recipe / "1_features.yaml").write_text(stage)
    with pytest.raises(ConfigError, match=r"'p' of .* is not a procedural problem"):
        run_recipe(load_recipe(recipe))
    (recipe / "1_features.yaml").write_text(f"{stage}graded: {data}\n")
    with pytest.raises(ConfigError, match="give one of `steps`"):
        load_recipe(recipe)


def test_a_share_to_mix_must_be_one_of_the_shares(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    (tmp_path / "1_curve.yaml").write_text("stage: probe_curve\nfeatures: x\nshares: [0.5]\nmix_shares: [0.1]\n")
    with pytest.raises(ConfigError, match=r"mix_shares has \[0.1\]"):
        load_recipe(tmp_path)
