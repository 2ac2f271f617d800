"""Every shipped recipe is read and checked in full; the large ones are run with a tiny model in its place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from reward_models.score import Scorer
from rlhf_e2h.cli import main
from rlhf_e2h.coding.sandbox import SandboxUnavailable, run_program
from rlhf_e2h.data.firewall import allowed_scope
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.preflight import check_launch
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.tools.miniature import tiny_overrides
from rlhf_e2h.tools.miniature.model import family_of

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.name for path in (ROOT / "recipes").iterdir() if (path / "recipe.yaml").is_file())
LARGE = [name for name in RECIPES if name.startswith(("llemma", "qwen"))]


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2H_DATA", "somewhere")
    recipe = load_recipe(ROOT / "recipes" / name)
    assert recipe.settings.name == name
    if name in LARGE:
        kinds = {spec.kind for spec in recipe.stages.values()}
        assert {"prepare", "sft", "sample", "grade", "reward", "rerank", "evaluate", "report"} <= kinds


@pytest.mark.parametrize("name", RECIPES)
def test_hard_labels_only_where_the_name_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("E2H_DATA", "somewhere")
    for spec in load_recipe(ROOT / "recipes" / name).stages.values():
        wants = {getattr(spec.config, "labels", "easy"), getattr(spec.config, "outcome", "easy")}
        if wants & {"full", "hard"}:
            assert allowed_scope(spec.kind, spec.name, getattr(spec.config, "purpose", "")) == "full", spec.name


@pytest.mark.parametrize("name", [name for name in RECIPES if (ROOT / "recipes" / name / "README.md").is_file()])
def test_readme_names_only_what_exists(name: str) -> None:
    folder = ROOT / "recipes" / name
    text = (folder / "README.md").read_text(encoding="utf-8")
    for file in re.findall(r"`(\d_\w+\.yaml)`", text):
        assert (folder / file).is_file(), f"{file} is named in the README of {name}"
    assert f"e2h run recipes/{name}" in text


# ---- The large recipes with a tiny model: `--set model=tiny` ----------------------------------------------------


@pytest.fixture
def math_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(os.environ.get("E2H_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "math_train.jsonl").is_file():
        pytest.skip("real MATH rows are not here; set E2H_DATA to the folder with math_train.jsonl")
    monkeypatch.setenv("E2H_DATA", str(folder))
    return folder


def run_tiny(name: str, runs: Path, *arguments: str) -> dict[str, Any]:
    """Run a recipe as the command line does; returns the completion records of its stages by stage name."""
    command = ["run", str(ROOT / "recipes" / name), "--set", "model=tiny", f"runs={runs}", *arguments]
    assert main(command) == 0
    records = (json.loads(path.read_text()) for path in runs.glob("*/*/done.json"))
    return {record["name"]: record for record in records}


@pytest.mark.parametrize(
    ("base", "model_type", "tied"),
    [
        ("EleutherAI/llemma_7b", "llama", False),
        ("EleutherAI/llemma_34b", "llama", False),
        ("codellama/CodeLlama-7b-hf", "llama", False),
        ("Qwen/Qwen2.5-Math-1.5B", "qwen2", True),  # tie_word_embeddings of their config.json files
        ("Qwen/Qwen2.5-Math-7B", "qwen2", False),
    ],
)
def test_family_of_the_shipped_bases(base: str, model_type: str, tied: bool) -> None:
    assert (family_of(base).model_type, family_of(base).tied) == (model_type, tied)


def test_no_tiny_model_for_an_unknown_one() -> None:
    with pytest.raises(ConfigError, match=r"no tiny model like 'someone/mamba-7b'; known: codellama, llama"):
        family_of("someone/mamba-7b")


def test_a_tiny_recipe_says_that_it_is_tiny() -> None:
    with pytest.raises(ConfigError, match="the model of quickstart is tiny already"):
        tiny_overrides(ROOT / "recipes" / "quickstart", ["model=tiny"])


def test_tiny_needs_real_problems(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"math_train\.jsonl: no such file; model=tiny takes 40 problems"):
        tiny_overrides(ROOT / "recipes" / "llemma-7b-prm800k", ["model=tiny", f"math={tmp_path}", f"runs={tmp_path}"])


def test_stages_in_tiny_until_sampling(math_data: Path, tmp_path: Path) -> None:
    """The sample of the slow test below that every change is checked with: data, SFT and what a second run does."""
    for stage in ("prepare", "prm800k", "sft_easy"):
        done = run_tiny("qwen2.5-math-1.5b", tmp_path, "--only", stage)
    assert sorted(done) == ["prepare", "prm800k", "sft_easy"]
    counts = done["prepare"]["results"]["counts"]
    # Of 25 train and 15 test rows: two a level are the test set, one a level is for validation, the rest is trained on.
    assert [counts[split]["all"] for split in ("train", "validation", "test")] == [25, 5, 10]
    assert done["sft_easy"]["results"]["solutions"] == 15  # three easy levels of five problems
    model = json.loads((next((tmp_path / "sft_easy").iterdir()) / "config.json").read_text())
    assert model["model_type"] == "qwen2"
    assert run_tiny("qwen2.5-math-1.5b", tmp_path, "--only", "sft_easy") == done  # nothing was run again


def test_programs_in_tiny(tmp_path: Path) -> None:
    """Sampled as above; also shows that the sandbox is reached through the ordinary stages."""
    try:
        run_program("pass")
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    done = run_tiny("apps-orm", tmp_path)
    assert set(done) == {spec.name for spec in load_recipe(ROOT / "recipes" / "apps-orm").stages.values()}
    graded = done["grade_easy"]["results"]
    # The model guesses among four programs (some with a comment), each right for a quarter of the problems.
    assert graded["graded"] == 12 * 8 and 0 < graded["correct"] < 1
    table = json.loads((next((tmp_path / "programs").iterdir()) / "programs.json").read_text())
    assert {row["decoding"] for row in table} == {"greedy", "mean", "pass_at_n", "best_of_n"}
    assert all(row["all strict"] <= row["all average"] for row in table)
    for row in table:
        if row["decoding"] in ("mean", "best_of_n") and row["samples"] == 1:  # best of one is one drawn at random
            assert row["all average"] == pytest.approx(table[2]["all average"])


@pytest.mark.slow
def test_all_models_of_ppo_on_one_base_in_tiny(
    math_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What the recipe's README offers: SFT and PRM are adapters on one base, and no whole reward model is loaded."""
    for stage in ("prepare", "prm800k", "sft_easy", "prm"):
        run_tiny("qwen2.5-math-1.5b", tmp_path, "--only", stage)
    monkeypatch.setattr(Scorer, "from_pretrained", None)
    done = run_tiny("qwen2.5-math-1.5b", tmp_path, "--only", "ppo", "ppo.share_base=true")
    said = [message for message in caplog.messages if "learnt next to nothing" not in message]  # the tiny PRM has
    assert done["ppo"]["results"]["objective/kl"] < 1 and not said


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_every_stage_in_tiny(name: str, math_data: Path, tmp_path: Path) -> None:
    """What would fail at hour nine of a large run fails here: real problems, tiny model of the same architecture."""
    done = run_tiny(name, tmp_path)
    recipe = load_recipe(ROOT / "recipes" / name)
    assert set(done) == {spec.name for spec in recipe.stages.values() if not spec.optional}
    assert (next((tmp_path / "report").iterdir()) / "results.csv").is_file()


@pytest.mark.parametrize("name", [name for name in LARGE if name != "qwen2.5-math-1.5b"])
def test_launch_file_of_the_readme_suits_every_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a launch file cannot do is said before the first stage, and the README names one that can do all."""
    monkeypatch.setenv("E2H_DATA", "somewhere")
    recipe = load_recipe(ROOT / "recipes" / name)
    todo = list(recipe.stages.values())
    text = (ROOT / "recipes" / name / "README.md").read_text(encoding="utf-8")
    for launch in set(re.findall(rf"e2h run recipes/{name} --launch (\S+)", text)):
        check_launch(todo, launch)
    if "ppo" in recipe.stages:
        recipe.stages["ppo"].config.share_base = True
        with pytest.raises(ConfigError, match=r"ppo: share_base does not run under FSDP"):
            check_launch(todo, "launch/fsdp.yaml")
        check_launch(todo, "launch/zero3.yaml")
