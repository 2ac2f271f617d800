"""The checks that are meant for a GPU, on this CPU with a model of no size; and that they can fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks/gpu"
sys.path.insert(0, str(FOLDER))


def test_the_gpu_checks_run_here(tmp_path):
    command = [sys.executable, str(FOLDER / "run.py"), "--tiny", "--out", str(tmp_path / "found.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.rstrip().endswith("all checks passed on CPU")
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"ppo", "log_probabilities", "resume", "rounds", "vllm"} <= found.keys()
    assert found["resume"]["difference"] == 0
    # a share of a rate that was measured on the CPU a moment before: above 1 where that moment was busier
    assert found["ppo"]["rollout_tokens_a_second"] > 0 and 0 < found["ppo"]["update_mfu"] < 10


def test_its_tokenizer_has_a_token_a_word():
    import checks

    tokenizer, [row] = checks.words(2048), checks.prompts(1, 50, 2048)
    ids = tokenizer(row["prompt"])["input_ids"]
    assert len(ids) == 50 and tokenizer.decode(ids) == row["prompt"]


def test_the_gpu_checks_can_fail(monkeypatch):
    import checks
    import meter

    before = meter.held()
    kept = torch.zeros(1_000_000)
    assert meter.held() - before == 4 * len(kept)
    monkeypatch.setattr(checks, "NEAR", 0.0)
    with pytest.raises(AssertionError, match="of sampler and trainer differ by"):
        checks.log_probabilities(checks.Shapes.tiny())
