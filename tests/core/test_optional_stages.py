"""An evaluation names every optional baseline, and has in it those that were run."""

import json

import pytest

from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe

ICL = 'stage: icl\noptional: true\npolicy: "@pretrain"\ndata: "@prepare"\nshots: {}\n'
EVALUATE = 'stage: evaluate\ndata: "@prepare"\npolicies: {{{}}}\nmax_new_tokens: 4\n'


@pytest.fixture
def optional(recipe):
    """The small recipe with two optional policies, and an optional evaluation of both."""
    for number in (2, 3):
        (recipe / f"2_icl_{number}.yaml").write_text(ICL.format(number))
    both = EVALUATE.format('two: "@icl_2", three: "@icl_3"')
    (recipe / "4_rows.yaml").write_text(both + "optional: true\n")
    return recipe


def outcomes(folder, stage):
    found = [json.loads(line) for file in (folder / stage).glob("*/outcomes.jsonl") for line in file.open()]
    return {row["policy"] for row in found}


def notes(folder, stage):
    (done,) = (folder / stage).glob("*/done.json")
    return json.loads(done.read_text()).get("notes", {})


def test_what_was_run_is_evaluated_and_the_rest_is_named(optional, tmp_path):
    runs = tmp_path / "runs"

    def go(only=None):
        run_recipe(load_recipe(optional, [f"runs={runs}"]), only)

    go()
    assert not (runs / "icl_2").exists() and not (runs / "rows").exists()
    with pytest.raises(ConfigError, match=r"rows: of the optional stages that it reads none is finished \(@icl_2, @i"):
        go("rows")
    go("icl_2")
    go("rows")
    assert outcomes(runs, "rows") == {"two"} and notes(runs, "rows")["not_run"] == "icl_3"
    before = sorted(path.name for path in (runs / "rows").iterdir())
    go("rows")
    assert sorted(path.name for path in (runs / "rows").iterdir()) == before
    go("icl_3")
    go("rows")
    assert outcomes(runs, "rows") == {"two", "three"} and len(list((runs / "rows").iterdir())) == 2


def test_a_single_input_that_is_optional_has_to_be_run(optional, tmp_path):
    (optional / "5_more.yaml").write_text('stage: sample\npolicy: "@icl_2"\ndata: "@prepare"\nsplit: test\n')
    with pytest.raises(ConfigError, match="its input '@icl_2' is not finished"):
        run_recipe(load_recipe(optional, [f"runs={tmp_path / 'runs'}"]))


def test_what_reads_an_optional_evaluation_goes_without(optional, tmp_path):
    """Of an optional stage whose own inputs are not there, too."""
    (optional / "4_all.yaml").write_text(EVALUATE.format('one: "@icl"'))
    (optional / "5_report.yaml").write_text('stage: report\nevaluations: ["@all", "@rows"]\ndraws: 100\n')
    runs = tmp_path / "runs"
    run_recipe(load_recipe(optional, [f"runs={runs}"]))
    assert notes(runs, "report")["not_run"] == "rows"
