"""Rows that a limit of tokens leaves out or cuts are counted; many are a warning, most an error."""

import logging

import pytest

from rlhf_e2h.data.tokenizers import byte_tokenizer
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.stages import dpo
from rlhf_e2h.training.lengths import report_lengths, report_unfinished


@pytest.fixture
def run(tmp_path):
    return StageRun("dpo", "dpo", tmp_path, 0, tmp_path, Tracker(None), {})


def test_counts_add_up_over_rounds_and_warn_above_a_tenth(run, caplog):
    with caplog.at_level(logging.WARNING):
        assert report_lengths(run, [(9, 10)] * 19 + [(9, 11)], 10) == (0, 1)
        assert report_lengths(run, [(9, 10)] * 9 + [(10, 11)], 10) == (1, 0)
    assert not caplog.records and run.results == {"cut": 1, "left_out": 1}
    report_lengths(run, [(3, 5)] * 7 + [(3, 12), (10, 12), (30, 40)], 10, "pairs")
    assert run.results == {"cut": 2, "left_out": 3}
    assert "2 of 10 pairs are left out and 1 cut at their end by training.max_length=10" in caplog.text


def test_most_rows_gone_is_an_error(run):
    report_lengths(run, [(3, 5), (12, 13)] * 5, 10)
    with pytest.raises(ConfigError, match=r"dpo: 6 of 10 solutions .* training.max_length=10; raise it"):
        report_lengths(run, [(3, 5), (12, 13)] * 4 + [(12, 13)] * 2, 10)


def test_dpo_counts_pairs_as_trl_drops_and_cuts_them(run, monkeypatch):
    """Bytes as tokens, EOS after each text: the prompts have 4 and 9 tokens, the pairs 4 + 4 and 4 + 7."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from rlhf_e2h.training.models import Policy

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    monkeypatch.setattr(dpo, "trained", lambda *_: (None, 0.0))
    settings = dpo.Config(policy="p", data="d", reward_model="r",
                          training=dpo.DPOTraining(max_length=8, batch_size=4))  # fmt: skip
    rows = [{"prompt": "abcd", "chosen": "xyz", "rejected": "x"}] * 4
    rows += [
        {"prompt": "abcd", "chosen": "x", "rejected": "xyzxyz"},
        {"prompt": "abcdefghi", "chosen": "x", "rejected": "y"},
    ]
    policy, reference = Policy(LlamaForCausalLM(config), tokenizer), LlamaForCausalLM(config)
    dpo._train(policy, reference, rows, settings, run, 0)
    assert run.results == {"left_out": 1, "cut": 1}
    with pytest.raises(ConfigError, match=r"dpo: 3 of 4 pairs"):
        dpo._train(policy, reference, [rows[0], *[rows[5]] * 3], settings, run, 0)


def test_completions_cut_at_the_limit_are_on_the_line(run):
    """Of PPO's and GRPO's own completions: the last five steps count, and more than a tenth is a warning."""
    run.tracker = Tracker(run.out)
    for step in range(8):
        run.log({"train/rollout/unfinished": 1.0 if step < 3 else 0.05, "loss": 1.0}, step)
    report_unfinished(run, 64)
    assert run.results == {"unfinished": pytest.approx(0.05)} and not run.warnings
    run.log({"rollout/unfinished": 0.9}, 8)
    report_unfinished(run, 64)
    assert run.warnings == [
        "22% of the completions of the last 5 steps were cut at max_new_tokens=64, and so had no answer; raise it"
    ]
