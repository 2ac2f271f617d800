"""Recipes of one's own: copied, or made from a model and a file of problems; planned outside a clone."""

import json
from pathlib import Path

import pytest

from rlhf_e2h.cli import main
from rlhf_e2h.runner.preflight import check_launch
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No clone, no launch folder: what ships is all there is."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _rows(name: str, count: int = 40, **fields: bool) -> str:
    rows = []
    for number in range(count):
        row = {"problem": f"What is {number} + {number}?", "answer": str(2 * number)}
        if fields.get("solution", True):
            row["solution"] = f"We add.\n\nIt is $\\boxed{{{2 * number}}}$."
        if fields.get("level", True):
            row["level"] = number % 5 + 1
        rows.append(json.dumps(row))
    Path(name).write_text("\n".join(rows) + "\n")
    return name


def test_plan_knows_the_launch_files_that_ship(capsys):
    assert main(["plan", "quickstart", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"]


def test_a_copy_has_a_name_of_its_own_and_is_planned(elsewhere, capsys):
    assert main(["copy", "quickstart", "experiments/mine"]) == 0
    assert "e2h run experiments/mine" in capsys.readouterr().out
    recipe = load_recipe("experiments/mine")
    assert recipe.settings.name == "mine" and recipe.run_folder == Path("runs/mine")
    assert set(recipe.stages) == set(load_recipe("quickstart").stages)
    assert main(["plan", "experiments/mine"]) == 0


def test_launch_files_are_copied_too(elsewhere):
    assert main(["copy", "launch", "clusters"]) == 0
    assert (elsewhere / "clusters" / "slurm.sh").is_file() and (elsewhere / "clusters" / "zero3.yaml").is_file()


def test_a_copy_overwrites_nothing(elsewhere, capsys):
    (elsewhere / "mine").mkdir()
    (elsewhere / "mine" / "notes.txt").write_text("mine")
    assert main(["copy", "quickstart", "mine"]) == 2
    assert main(["copy", "quikstart", "other"]) == 2
    said = capsys.readouterr().err
    assert "mine: is there and not empty" in said and "did you mean 'quickstart'" in said
    assert (elsewhere / "mine" / "notes.txt").read_text() == "mine" and not (elsewhere / "other").exists()


@pytest.mark.parametrize("gpus", [0, 1, 3, 8])
def test_a_new_recipe_is_planned_and_divides_among_its_gpus(gpus, capsys):
    data = _rows("problems.jsonl")
    assert main(["init", "mine", "--model", "Qwen/Qwen2.5-Math-1.5B", "--data", data, "--gpus", str(gpus)]) == 0
    assert "40 problems" in capsys.readouterr().out
    recipe = load_recipe("mine")
    assert recipe.settings.variables["base"] == "Qwen/Qwen2.5-Math-1.5B"
    assert recipe.settings.variables["gradient_checkpointing"] is (gpus > 0)
    assert main(["plan", "mine", "--gpus", str(max(1, gpus))]) == 0
    if gpus > 1:
        Path("own.yaml").write_text(f"distributed_type: DEEPSPEED\nnum_processes: {gpus}\n")
        check_launch(list(recipe.stages.values()), "own.yaml")


def test_what_the_file_holds_decides_what_the_recipe_does(capsys):
    data = _rows("bare.jsonl", solution=False, level=False)
    assert main(["init", "bare", "--model", "gpt2", "--data", data, "--test", _rows("test.jsonl", 5)]) == 0
    said = capsys.readouterr().out
    assert "no row has a solution, so there is no fine-tuning" in said and "no row has a level" in said
    recipe = load_recipe("bare")
    assert "sft_easy" not in recipe.stages and recipe.stages["ppo"].config.policy == "gpt2"
    prepare = recipe.stages["prepare"].config
    assert prepare.default_level == 1 and prepare.split == "files"
    assert recipe.stages["evaluate"].config.bank_policy in recipe.stages["evaluate"].config.policies


def test_the_first_stages_of_a_new_recipe_run(elsewhere):
    save_policy(*new_llama(ModelShape(hidden=16, layers=1, intermediate=32, heads=2), "byte", 0), elsewhere / "model")
    assert main(["init", "mine", "--model", "model", "--data", _rows("problems.jsonl"), "--gpus", "0"]) == 0
    small = ["threads=1", "sft_easy.training.max_steps=1", "batch=4", "sft_easy.training.lora.r=2"]
    for stage in ("prepare", "sft_easy"):
        assert main(["run", "mine", "--only", stage, *small]) == 0
    (done,) = elsewhere.glob("runs/mine/prepare/*/done.json")
    counts = json.loads(done.read_text())["results"]["counts"]
    assert sum(counts[split]["all"] for split in ("train", "validation", "test")) <= 40 and counts["test"]["all"] == 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "gpt2", "--data", "none.jsonl"], "no such file; --data and --test name files"),
        (["--model", "./none", "--data", "{data}"], "neither a folder with a config.json nor a hub id"),
        (["--model", "gpt2", "--data", "{bad}"], "none of the first 1 rows has an answer"),
        (["--model", "gpt2", "--data", "{data}", "--gpus", "-1"], "--gpus -1: 0 for a CPU"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(arguments, words, elsewhere, capsys):
    Path("bad.jsonl").write_text('{"problem": "1+1?"}\n')
    data = _rows("problems.jsonl", 3)
    assert main(["init", "mine", *(word.format(data=data, bad="bad.jsonl") for word in arguments)]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("e2h: ") == 1 and not (elsewhere / "mine").exists()
