import pytest

from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.recipe import load_recipe


def test_stages_come_in_the_order_of_their_inputs(recipe):
    (recipe / "0_early.yaml").write_text((recipe / "3_sample.yaml").read_text())
    names = list(load_recipe(recipe).stages)
    assert names.index("icl") < names.index("early")
    assert sorted(names) == ["early", "icl", "prepare", "pretrain", "sample"]
    assert names.index("icl") > max(names.index("pretrain"), names.index("prepare"))


def test_overrides_reach_stage_recipe_and_variable(recipe):
    loaded = load_recipe(recipe, ["sample.decoding.n=5", "seeds=[3, 4]", "shots=2"])
    assert loaded.stages["sample"].config.decoding.n == 5
    assert loaded.settings.seeds == [3, 4]
    assert loaded.stages["icl"].config.shots == 2


def test_a_size_sets_variables_and_overrides_win(recipe):
    (recipe / "recipe.yaml").write_text(
        "name: small\nvariables: {size: tiny, shots: 1}\nsizes:\n  tiny: {shots: 2}\n  large: {shots: 3}\n"
    )
    shots = lambda *overrides: load_recipe(recipe, list(overrides)).stages["icl"].config.shots  # noqa: E731
    assert shots() == 2
    assert shots("size=large") == 3
    assert shots("shots=4", "size=large") == 4
    with pytest.raises(ConfigError, match="size is 'huge'; allowed: tiny, large"):
        shots("size=huge")


def test_a_stage_file_stands_for_its_recipe(recipe):
    loaded = load_recipe(recipe / "2_icl.yaml", ["between=blank", "seed=7"], only_kind="icl")
    assert loaded.stages["icl"].config.between == "blank"
    assert loaded.settings.seeds == [7]
    with pytest.raises(ConfigError, match="is a 'icl' stage, not 'sft'"):
        load_recipe(recipe / "2_icl.yaml", only_kind="sft")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("2_icl.yaml", 'stage: icl\npolicy: "@pretrian"\ndata: "@prepare"\n', "did you mean 'pretrain'"),
        ("2_icl.yaml", "stage: icll\n", "did you mean 'icl'"),
        ("2_icl.yaml", 'stage: icl\npolicy: "@sample"\ndata: "@prepare"\n', "in a circle"),
        ("2_icl.yaml", 'stage: icl\npolicy: "@pretrain"\ndata: "@prepare"\nshot: 2\n', "did you mean 'shots'"),
        ("3_sample.yaml", 'stage: sample\npolicy: "@icl"\ndata: "@prepare"\ndecoding: {n: 0}\n', "at least 1"),
    ],
)
def test_mistakes_are_found_before_anything_runs(recipe, file, text, message):
    (recipe / file).write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe)


def test_unknown_override_names_the_nearest(recipe):
    with pytest.raises(ConfigError, match="did you mean 'sample'"):
        load_recipe(recipe, ["sampel.n=1"])


def test_folder_without_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="these ship"):
        load_recipe(tmp_path / "nothing")
