"""Reward terms: a Python function, length, format; and what a wrong function is told."""

import math
import re
import sys

import pytest
import torch

from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.data.tokenizers import BUILDERS
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Completion, Reward, call_reward_fn, sequence_rewards, token_rewards
from rlhf_e2h.rl.rollout import Rollouts
from rlhf_e2h.rl.sources import RewardSources, scored_steps
from rlhf_e2h.rl.terms import RewardTerms, add_terms, load_function, stop_share, tokens_outside

FUNCTIONS = """
import numpy as np
import torch

def brevity(completions):
    return [-len(c.text) for c in completions]

def each_token(completions):
    return [np.arange(len(c.ids)) for c in completions]

def on_level(completions):
    return torch.tensor([float(c.row["level"]) for c in completions])

def fails_on_b(completions):
    return [1 / (c.row["problem_id"] != "b") for c in completions]

def not_a_number(completions):
    return [float("nan") if c.row["problem_id"] == "b" else 0.0 for c in completions]

def too_few(completions):
    return [0.0]

def wrong_width(completions):
    return [[0.0] * 7 for _ in completions]

def words(completions):
    return ["good" for _ in completions]

constant = 3
"""


@pytest.fixture(autouse=True)
def functions(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)


def completions():
    return [
        Completion({"problem_id": "a", "problem": "q", "level": 1}, "x=1\n\n# Answer\n\n1", True, [5, 6, 7]),
        Completion({"problem_id": "b", "problem": "q", "level": 5}, "x=1", False, [5, 6]),
    ]


def with_terms(**settings):
    rewards = [Reward(), Reward(outcome=1.0)]
    add_terms(RewardTerms(**settings), completions(), rewards)
    return rewards


def test_function_of_a_sequence_and_of_tokens():
    texts = [len(c.text) for c in completions()]
    assert [r.bonus for r in with_terms(function="my_rewards:brevity")] == [-texts[0], -texts[1]]
    assert [r.bonus for r in with_terms(function="my_rewards:on_level", function_scale=0.5)] == [0.5, 2.5]
    assert [r.per_token for r in with_terms(function="my_rewards:each_token")] == [[0.0, 1.0, 2.0], [0.0, 1.0]]


def test_length_and_format_terms():
    # 3 and 2 tokens against at least 5 and at most 2
    assert [tokens_outside(count, 5, None) for count in (3, 7)] == [2, 0]
    assert [r.bonus for r in with_terms(length_coef=0.1, max_tokens=2)] == [pytest.approx(-0.1), 0.0]
    assert [r.bonus for r in with_terms(length_coef=0.1, min_tokens=3)] == [0.0, pytest.approx(-0.1)]
    rewards = [Reward() for _ in range(3)]
    found = [Completion({}, text, True, [1]) for text in ("x=1\n\n# Answer\n\n1", "x=1", "\n\n\n\n# Answer\n\n1")]
    add_terms(RewardTerms(format_penalty=2.0), found, rewards)
    assert [r.bonus for r in rewards] == [0.0, -2.0, -2.0]
    assert with_terms(format_penalty=2.0)[1].bonus == 0.0  # unfinished: unfinished_penalty is for that


@pytest.mark.parametrize(
    ("solution", "share"),
    [
        (r"So \boxed{5} it is.", 0.0),  # the four grades of the paper's released code
        ("It is\n\nso it is $5$", 0.5),
        ("so it is $5.$", 0.5),
        ("so it is 5.", 0.75),
        ("5 is found.\n\nDone.", 1.0),  # not in the last step
        (r"So \boxed{6}.", 1.0),  # another answer is boxed
    ],
)
def test_stop_penalty_is_graded_by_how_clearly_the_work_arrives_at_the_answer(solution, share):
    text = f"{solution}\n\n# Answer\n\n5"
    assert stop_share(text, True) == share
    assert stop_share(text, False) == stop_share(solution, True) == 1.0  # cut short, and without an answer
    reward = Reward()
    add_terms(RewardTerms(stop_penalty=2.0), [Completion({}, text, True, [1])], [reward])
    assert reward.bonus == -2 * share == reward.extras["stop"]


def test_steps_before_the_answer_are_counted():
    assert scored_steps(["a", "b", "# Answer\n\n5"], SECTIONS) == 2
    assert scored_steps(["a", "b"], SECTIONS) == 2  # cut short: every step is one of the work
    assert scored_steps(["# Answer\n\n5"], SECTIONS) == 1


def test_terms_compose_with_the_checker_and_stand_on_their_tokens():
    tokenizer = BUILDERS["procedural"]()
    texts, done = ["x=1\n\n# Answer\n\n1", "x=1"], [True, False]
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] * end for text, end in zip(texts, done, strict=True)]
    rows = [{"problem_id": "a", "level": 1}, {"problem_id": "b", "level": 5}]
    columns = zip(rows, texts, done, ids, strict=True)
    terms = RewardTerms(function="my_rewards:each_token", length_coef=0.5, max_tokens=len(ids[0]) - 1)
    with CheckerPool(workers=1) as checker:
        sources = RewardSources({"a": Label("a", "1", "", "train")}, checker, terms=terms)
        rewards = call_reward_fn(sources, [Completion(*column) for column in columns])
    assert [r.outcome for r in rewards] == [1.0, None]
    settings = PPOSettings(outcome_scale=2.0, unfinished_penalty=3.0, outcome_unlabelled=0.5)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(row)) for row in ids], batch_first=True).bool()
    found, metrics = token_rewards(rewards, Rollouts([[1]] * 2, ids, [], texts, done), tokenizer, mask, settings)
    # each token pays its number; on the last a gets 2 * 1 for the outcome and loses .5 for a token too many, and b
    # gets 2 * .5 and loses 3 for not ending
    expected = torch.zeros(mask.shape)
    for row, last in enumerate((2 - 0.5, 2 * 0.5 - 3)):
        expected[row, : len(ids[row])] = torch.arange(len(ids[row]), dtype=torch.float32)
        expected[row, len(ids[row]) - 1] += last
    torch.testing.assert_close(found, expected)
    assert sequence_rewards(rewards, done, settings) == pytest.approx(expected.sum(1).tolist())
    assert metrics["reward/length"] == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails_on_b", r"my_rewards:fails_on_b raised ZeroDivisionError: .*on problem 'b' \(completion 'x=1'\)"),
        ("not_a_number", "my_rewards:not_a_number gave nan for problem 'b'"),
        ("too_few", r"my_rewards:too_few gave 1 values for 2 completions \(the first is problem 'a'"),
        ("wrong_width", "my_rewards:wrong_width gave 7 values for the 3 tokens of problem 'a'"),
        ("words", "my_rewards:words gave 'good' for problem 'a'"),
    ],
)
def test_a_wrong_function_is_named_with_the_problem(name, message):
    with pytest.raises(ValueError, match=message):
        with_terms(function=f"my_rewards:{name}")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_rewards.brevity", "is no MODULE:FUNCTION"),
        ("no_such_module:f", "No module named 'no_such_module'; its folder must be on PYTHONPATH"),
        ("my_rewards:brevitty", "has no such name"),
        ("my_rewards:constant", "has a int of this name"),
    ],
)
def test_a_function_that_is_not_there_is_told_when_the_settings_are_read(path, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        RewardTerms(function=path)
    assert callable(load_function("my_rewards:brevity"))


def test_terms_out_of_range():
    with pytest.raises(ValueError, match="below min_tokens"):
        RewardTerms(min_tokens=5, max_tokens=3)
    with pytest.raises(ValueError, match="needs min_tokens or max_tokens"):
        RewardTerms(length_coef=0.1)


def test_any_reward_function_is_checked_with_the_problem_named():
    with pytest.raises(ValueError, match=r"reward of problem 'b'.*holds nan"):
        call_reward_fn(lambda cs: [Reward(), Reward(bonus=math.nan)], completions())
    assert SECTIONS.answer(completions()[0].text) == "1"
