"""The forms of ReST-EM and DPO: answers only, of easy, hard or all problems; and samples that are there already."""

import json
import shutil

import pytest
from mini_rounds import DPO, REST, differ, make_models, run, weights

from reward_models.records import read_jsonl
from rlhf_e2h.data.firewall import FirewallError
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.samples import rounds as rounds_module
from rlhf_e2h.samples.rounds import best_round

ANSWERS = {**REST, "reward_model": None, "rounds": 1, "problems": None}
PAIRS = {**DPO, "policy": "asset:base", "rounds": 1, "problems": None, "decoding": {"n": 4, "max_new_tokens": 90}}
BANK = {"stage": "sample", "policy": "asset:base", "data": "@prepare", "decoding": {"n": 3, "max_new_tokens": 90}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("models"))


def labelled(folder, file):
    """Train problems with a label in a file of the prepare stage."""
    (prepare,) = (folder.parents[1] / "prepare").iterdir()
    return {row["problem_id"] for row in read_jsonl(prepare / file) if row["split"] == "train"}


@pytest.mark.parametrize(
    ("name", "labels", "read"),
    [
        ("rest", "easy", {"labels_easy.jsonl"}),
        ("rest_hardonly", "hard", {"labels_sealed.jsonl"}),
        ("rest_dagger", "full", {"labels_easy.jsonl", "labels_sealed.jsonl"}),
    ],
)
def test_rest_on_answers_alone(tmp_path, models, name, labels, read):
    """The paper's form: no reward model, and only problems whose answers the stage may read."""
    folder, done = run(tmp_path, models, ANSWERS, name=name, labels=labels)
    kept = read_jsonl(folder / "kept_0.jsonl")
    assert {record["file"] for record in done["labels_read"]} == read
    allowed = set().union(*(labelled(folder, file) for file in read))
    asked = {row["problem_id"] for row in kept}
    assert asked and asked <= allowed and all(row["correct"] and row["rm"] is None for row in kept)
    if labels == "full":
        assert asked & labelled(folder, "labels_sealed.jsonl") and asked & labelled(folder, "labels_easy.jsonl")
    assert "judge/rm_mean" in read_jsonl(folder / "metrics.jsonl")[0]


def test_dpo_on_answers_alone_pairs_right_with_wrong(tmp_path, models):
    folder, _ = run(tmp_path, models, PAIRS, name="dpo_dagger", labels="full", reward_model=None, margin=0.5)
    pairs = read_jsonl(folder / "pairs_0.jsonl")
    assert pairs and all(pair["margin"] == 1.0 and pair["labelled"] for pair in pairs)
    assert {pair["problem_id"] for pair in pairs} & labelled(folder, "labels_sealed.jsonl")


@pytest.mark.parametrize("stage", [ANSWERS, {**PAIRS, "margin": 0.5}])
def test_hard_answers_are_for_stages_that_say_so(tmp_path, models, stage):
    with pytest.raises(FirewallError, match="may not read the sealed labels"):
        run(tmp_path, models, stage, labels="full")


def test_hard_questions_without_their_answers_need_a_reward_model(tmp_path, models):
    with pytest.raises(ConfigError, match=r"no train problem of levels \[4, 5\] has an answer among the easy labels"):
        run(tmp_path, models, ANSWERS, levels=[4, 5])
    with pytest.raises(ConfigError, match="without reward_model scores are 0 or 1"):
        run(tmp_path, models, DPO, reward_model=None, margin=1.0)


@pytest.mark.parametrize("stage", [REST, PAIRS])
def test_samples_that_are_there_stand_for_the_first_round(tmp_path, models, stage):
    """With seed 0 a sample stage draws what the first round draws; so the weights are the same, and cost less."""
    stage = {**stage, "problems": None, "rounds": 1, "decoding": {"n": 3, "max_new_tokens": 90}}
    alone, dear = run(tmp_path, models, stage)
    folder, cheap = run(tmp_path, models, stage, others={"bank": BANK}, samples="@bank")
    (bank,) = (folder.parents[1] / "bank").iterdir()
    sampled = json.loads((bank / "done.json").read_text())["tokens"]
    assert not differ(weights(alone), weights(folder)) and cheap["tokens"] == dear["tokens"] - sampled
    assert cheap["results"]["without_samples"] == 0


def test_a_bank_of_easy_problems_is_asked_for_those_alone_and_at_most_n_each(tmp_path, models):
    folder, done = run(tmp_path, models, REST, others={"bank": {**BANK, "levels": [1]}}, samples="@bank", rounds=1)
    kept = read_jsonl(folder / "kept_0.jsonl")
    assert {row["sample_id"] for row in kept} <= {0, 1}  # decoding.n of REST is 2, the bank has 3
    assert len({row["problem_id"] for row in kept}) <= 6  # of level 1
    assert done["results"]["without_samples"] == 24


def test_scores_that_are_there_are_used(tmp_path, models, monkeypatch):
    scored = {"stage": "rerank", "samples": "@bank", "data": "@prepare", "reward_models": {"prm": str(models / "prm")}}
    stage = {**REST, "problems": None, "rounds": 1, "samples": "@scored/scored_prm.jsonl"}
    others = {"bank": BANK, "scored": scored}
    with monkeypatch.context() as patch:
        patch.setattr(rounds_module, "score_bank", None)
        folder, _ = run(tmp_path, models, stage, others=others)
    again, done = run(tmp_path, models, {**stage, "samples": "@bank"}, others=others)
    assert not differ(weights(folder), weights(again)) and "warnings" not in done
    # a copy scores as the first one, but nothing says that it is the same
    copy = models / "copy"
    shutil.copytree(models / "prm", copy)
    (copy / "note.txt").write_text("another")
    _, done = run(tmp_path, models, stage, others=others, reward_model=str(copy))
    assert "are of another reward model" in done["warnings"][0]


def test_of_rounds_that_are_equally_good_the_last_is_taken():
    assert best_round([0.5, 0.7, 0.7, 0.6]) == 2 and best_round([0.9, 0.1]) == 0 and best_round([1.0]) == 0


def test_easy_validation_problems_choose_a_round(tmp_path, models):
    folder, done = run(tmp_path, models, REST, keep="best", eval_problems=2)
    purposes = {(record["file"], record["purpose"]) for record in done["labels_read"]}
    assert purposes == {("labels_easy.jsonl", "training"), ("labels_easy.jsonl", "selection")}
    seen = [row["eval/accuracy_easy"] for row in read_jsonl(folder / "metrics.jsonl") if "eval/accuracy_easy" in row]
    assert len(seen) == 2 and done["results"]["eval/accuracy_easy"] == max(seen)
    chosen = done["results"]["round"]
    assert chosen == (1 if seen[0] > seen[1] else 2)
    other, last = run(tmp_path, models, REST, rounds=chosen)
    assert not differ(weights(folder), weights(other))
    assert chosen == 1 or last["tokens"] == done["tokens"]  # validation is not what training costs


def test_samples_of_another_policy_are_refused(tmp_path, models):
    with pytest.raises(ConfigError, match="'@bank' are of another policy"):
        run(tmp_path, models, REST, others={"bank": {**BANK, "policy": str(models / "policy")}}, samples="@bank")
