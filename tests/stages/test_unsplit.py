"""Solutions that a process reward model takes for one step are counted on the stage's line."""

import pytest
from transformers import LlamaConfig

from reward_models.contract import StepContract
from rlhf_e2h.rl.rewards import Completion
from rlhf_e2h.rl.sources import RewardSources
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.samples.unsplit import report_unsplit

ROWS = [{"text": text} for text in ["a\nb\nc", "a\n\nb\nc", "a\nb", "\na\nb\n"] + ["a\n\nb"] * 16]


@pytest.fixture
def run(tmp_path):
    return StageRun("rerank", "rerank", tmp_path, 0, tmp_path, Tracker(None), {})


def checkpoint(folder, kind):
    config = LlamaConfig()
    StepContract(kind).write_to(config)
    config.save_pretrained(folder)
    return folder


def test_they_are_counted_once_and_add_up_over_rounds(run, tmp_path):
    models = [checkpoint(tmp_path / kind, kind) for kind in ("prm", "oprm", "orm")]
    report_unsplit(run, ROWS, models)
    assert run.results == {"one_step": 1} and not run.warnings
    report_unsplit(run, ROWS[:4], models)
    assert run.results == {"one_step": 2}
    assert "1 of 4 solutions have several lines" in run.warnings[0]


def test_an_outcome_model_reads_texts_whole(run, tmp_path):
    report_unsplit(run, ROWS, [checkpoint(tmp_path / "orm", "orm")])
    assert run.results == {}


def test_ppo_says_the_share(prm_scorer):
    rows = [Completion({"problem_id": "p", "problem": "q", "level": 1}, row["text"], True) for row in ROWS[:4]]
    rewards = RewardSources({}, None, prm_scorer)(rows)
    assert [reward.extras["one_step"] for reward in rewards] == [1.0, 0.0, 0.0, 0.0]


@pytest.fixture
def prm_scorer(tmp_path):
    from pathlib import Path

    import rlhf_e2h
    from reward_models.model import load_tokenizer, new_model
    from reward_models.score import Scorer

    base = Path(rlhf_e2h.__file__).parent / "assets/base"
    return Scorer(new_model(base, StepContract("prm")), load_tokenizer(base), StepContract("prm"))
