"""Five lines of Python: load a policy, sample, grade, score, vote; with the shipped base, which solves easy sums."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_e2h as e2h
from reward_models.contract import StepContract
from reward_models.records import Stepwise
from reward_models.train import TrainSettings, train
from rlhf_e2h.data.procedural import make_problems
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.store import ASSETS
from rlhf_e2h.text_formats import FormatSettings


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rm")
    records = [Stepwise("1+1", ["1+1=2"], [1], 1), Stepwise("1+1", ["1+1=3"], [0], 0)] * 2
    settings = TrainSettings(num_train_epochs=1, batch_size=4, learning_rate=1e-3)
    train(ASSETS / "base", records, "prm", folder, settings, contract=StepContract("prm"))
    return folder


PROBLEMS = make_problems({1: 3}, seed=5)
TEXTS, ANSWERS = [row["problem"] for row in PROBLEMS], [row["answer"] for row in PROBLEMS]


def test_sample_grade_score_vote(reward_model: Path) -> None:
    policy = e2h.load_policy(ASSETS / "base")
    samples = e2h.sample(policy, TEXTS, n=4, temperature=0.3, max_new_tokens=80)
    assert [row["problem"] for row in samples] == [text for text in TEXTS for _ in range(4)]
    assert all("\n\n".join(row["steps"]) == row["text"] for row in samples)
    graded = e2h.grade(samples, ANSWERS)
    assert sum(row["correct"] for row in graded) > 6  # the base solves level 1
    scored = e2h.score(graded, reward_model)
    assert all(len(row["step_scores"]) == len(row["steps"]) for row in scored)
    assert e2h.vote(samples) == e2h.vote(scored) == ANSWERS  # majority, and weighted


def test_the_readmes_lines(reward_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As they stand, with models and a problem that are here."""
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    [lines] = re.findall(r"## In Python\n\n```python\n(.*?)```", readme, re.DOTALL)
    here = {
        "Qwen/Qwen2.5-Math-1.5B-Instruct": str(ASSETS / "base"),
        "What is 7 * 8?": TEXTS[0],
        '"56"': repr(ANSWERS[0]),
        "runs/prm": str(reward_model),
    }
    for word, other in here.items():
        assert word in lines
        lines = lines.replace(word, other)
    exec(compile(lines, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("[")


def test_a_vote_is_weighted_by_scores() -> None:
    rows = [{"problem_id": "0", "answer": answer} for answer in ("1", "1.0", "2", None)]
    assert e2h.vote(rows) == ["1"]  # two of the same
    scores = [0.1, 0.1, 0.9, 0.9]
    assert e2h.vote([{**row, "score": score} for row, score in zip(rows, scores, strict=True)]) == ["2"]
    assert e2h.vote([{"problem_id": "0", "answer": None}]) == [None]


def test_mistakes_are_sentences() -> None:
    policy = e2h.load_policy(ASSETS / "base", format="sections")
    with pytest.raises(ConfigError, match=r"has no chat template"):
        e2h.load_policy(ASSETS / "base", format="chat")
    with pytest.raises(ConfigError, match=r"prompts with max_new_tokens 9999 exceed the model's 2048 positions"):
        e2h.sample(policy, TEXTS, max_new_tokens=9999)
    with pytest.raises(ConfigError, match=r"1 answers for the samples of 2 problems"):
        e2h.grade([{"problem_id": "0", "answer": "1"}, {"problem_id": "1", "answer": "1"}], ["1"])
    with pytest.raises(ValueError, match=r"format 'template'"):
        FormatSettings("template")


def test_importing_the_package_loads_no_framework() -> None:
    script = "import sys, rlhf_e2h; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
