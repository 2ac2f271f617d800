"""A kind of reward model is one object: one that nobody knew before is registered, trained, scored and described."""

import pytest
from conftest import LEARN, words_task

from reward_models.contract import StepContract
from reward_models.kinds import KINDS, Kind, kind_of
from reward_models.options import parser
from reward_models.score import Scorer
from reward_models.train import train
from rlhf_e2h.stages.reward import Config


def so_far(record):
    """1 for a step as long as no step has been wrong."""
    return [float(all(record.labels[: index + 1])) for index in range(len(record.steps))]


PREFIX = Kind(
    name="prefix",
    title="Prefix reward model",
    about="whether everything so far is right",
    outcomes=False,
    steps=True,
    aggregation="last",
    selection="outcome_auc",
    step_targets=so_far,
    is_whole=lambda record: False,
)


@pytest.fixture
def prefix(monkeypatch):
    monkeypatch.setitem(KINDS, "prefix", PREFIX)


def test_a_fourth_kind_trains_and_scores_with_nothing_else_touched(prefix, base, tmp_path):
    result = train(base, words_task(160, seed=1), "prefix", tmp_path, LEARN, validation=words_task(60, seed=2))
    assert result["kind"] == "prefix" and result["validation"]["outcome_auc"] > 0.95
    scorer = Scorer.from_pretrained(tmp_path)
    assert (scorer.contract.kind, scorer.contract.aggregation) == ("prefix", "last")
    (good, lost) = scorer.score("What is 2?", [["good step."] * 3, ["bad step.", "good step.", "good step."]])
    # a process model of the same records gives a good step after a bad one a high score
    assert good.score > 0.9 and max(lost.steps) < 0.5
    assert "# Prefix reward model" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_fourth_kind_is_known_to_the_command_line_and_the_stage(prefix):
    words = ["train", "base", "records.jsonl", "out", "--kind", "prefix"]
    assert parser().parse_args(words).kind == "prefix"
    assert Config(kind="prefix", base="b", data="d", records="r").kind == "prefix"
    with pytest.raises(ValueError, match="kind: prefix learns from labels of steps"):
        Config(kind="prefix", base="b", data="d", graded="g")


def test_an_unknown_kind_is_told_the_nearest():
    with pytest.raises(
        ValueError, match=r"kind 'opm' is not known; choose one of orm, prm, oprm \(did you mean 'oprm'"
    ):
        kind_of("opm")
    with pytest.raises(ValueError, match=r"kind 'reward' is not known; choose one of orm, prm, oprm$"):
        StepContract("reward")
    with pytest.raises(ValueError, match="did you mean 'prm'"):
        Config(kind="prms", base="b", data="d")


@pytest.mark.parametrize(("name", "scores", "truths"), [("orm", [0.3], [0]), ("prm", [0.2, 0.3], [1, None])])
def test_what_a_score_judges(name, scores, truths):
    (record,) = words_task(1, seed=0)
    record.steps, record.labels, record.outcome = ["a", "b"], [1, None], 0
    assert list(kind_of(name).judgements([0.2, 0.3])) == scores
    assert list(kind_of(name).truths(record)) == truths
