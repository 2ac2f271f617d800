"""What a reward stage learns from: the true reason where there is nothing, and counts of what was left out."""

import json

import pytest

from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import read_done
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.store import Resolved
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.stages.reward import Config
from rlhf_e2h.training.reward_records import gather


def graded(tmp_path, *rows):
    """(problem, text, correct, finished) as graded samples."""
    names = ("problem_id", "text", "correct", "finished")
    lines = (json.dumps(dict(zip(names, row, strict=True)) | {"sample_id": i}) for i, row in enumerate(rows))
    (tmp_path / "graded.jsonl").write_text("\n".join(lines))
    run = StageRun("orm", "reward", tmp_path, 0, tmp_path, Tracker(None), {"g": [Resolved(tmp_path, "")]})
    return gather(Config("orm", "b", "d", graded="g"), run, {"p": "P?", "q": "Q?"})


def test_what_was_left_out_is_counted(tmp_path):
    found = graded(tmp_path, ("p", "a", True, True), ("p", "a", True, True), ("p", "b", False, True),
                   ("p", "c", False, False), ("q", "d", True, True))  # fmt: skip
    assert [(r.problem, r.outcome) for r in found.records] == [("P?", 1), ("P?", 0)]
    assert found.lost == {"unfinished": 1, "repeated": 1, "unbalanced": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("p", "a", False, True), ("p", "b", False, True)], "0 of 2 finished samples are right, so there is nothing"),
        ([("p", "a", True, True)], "1 of 1 finished samples are right, .* or harder problems"),
        ([("p", "a", True, False)], "none of the 1 graded samples is finished; raise decoding.max_new_tokens"),
        ([("p", "a", True, True), ("q", "b", False, True)], ".*no problem has both right and wrong ones"),
    ],
)
def test_the_true_reason_where_nothing_is_left(tmp_path, rows, message):
    with pytest.raises(ConfigError, match=f"orm: {message}"):
        graded(tmp_path, *rows)


def test_a_prm_on_graded_samples_without_step_labels_is_refused_at_once():
    with pytest.raises(ValueError, match=r"prm learns from labels of steps, .* Set step_labels: procedural"):
        Config("prm", "b", "d", graded="g")
    Config("prm", "b", "d", graded="g", records="r")
    Config("oprm", "b", "d", graded="g")


def test_the_line_of_the_stage_counts_long_records(tmp_path, capsys):
    """Records of people, a few of them longer than the limit: the line and done.json say so."""
    rows = [{"problem": f"n={n}?", "steps": ["good"] * (1 + 30 * (n % 5 == 0)), "labels": [n % 2] * (1 + 30 * (n % 5 == 0))} for n in range(60)]  # fmt: skip  # noqa: E501
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = [{"problem": row["problem"], "answer": "1", "level": 1} for row in rows]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (tmp_path / "test.jsonl").write_text(json.dumps({"problem": "t?", "answer": "1", "level": 4}))
    files = {
        "recipe.yaml": "name: counts\n",
        "0_pretrain.yaml": "stage: pretrain\nshape: {hidden: 8, layers: 1, intermediate: 8, heads: 1}\ntraining: {max_steps: 0}\n",  # noqa: E501
        "1_prepare.yaml": f"stage: prepare\nsource: jsonl\ntrain: {tmp_path}/train.jsonl\ntest: {tmp_path}/test.jsonl\n",  # noqa: E501
        "2_prm.yaml": f'stage: reward\nkind: prm\nbase: "@pretrain"\ndata: "@prepare"\nrecords: {tmp_path}/records.jsonl\n'  # noqa: E501
        "held_out: 0.2\ntraining: {num_train_epochs: 1, max_length: 100}\n",
    }
    (tmp_path / "recipe").mkdir()
    for name, text in files.items():
        (tmp_path / "recipe" / name).write_text(text)
    run_recipe(load_recipe(tmp_path / "recipe", [f"runs={tmp_path}/runs"]))
    (folder,) = (tmp_path / "runs" / "prm").iterdir()
    results = read_done(folder)["results"]
    assert results["too_long"] + results.get("held_out_too_long", 0) == 12
    assert f"too_long {results['too_long']}" in capsys.readouterr().err
