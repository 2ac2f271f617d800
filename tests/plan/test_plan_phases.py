"""The phases of a plan against the peaks of the same phases of a real process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from phase_worker import COMPLETION, LARGE, PPO, PROMPT, SCORED, VARIANTS, configuration
from test_plan_measured import ENVIRONMENT

from reward_models.settings import LoraSettings
from rlhf_e2h.rl import chunked_logits
from rlhf_e2h.stages.ppo import Config
from rlhf_e2h.tools.plan import policies
from rlhf_e2h.tools.plan.data import Numbers
from rlhf_e2h.tools.plan.memory import Form
from rlhf_e2h.tools.plan.phases import Decoding, rollout, scoring
from rlhf_e2h.training.architecture import of_config

policies.CHUNK = chunked_logits.CHUNK  # that of the worker
WORKER = Path(__file__).with_name("phase_worker.py")


def measured(*names):
    """Peak bytes by what was run and phase."""
    done = subprocess.run(
        [sys.executable, str(WORKER), *names], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def planned(name):
    """The phases that `e2h plan` would print, by name."""
    model = of_config("large", configuration(LARGE))
    if name == "sampling":
        phases = [rollout(name, model, Decoding(64, 4, 15, 96), {"weights": 2.0 * model.parameters})]
    elif name == "scoring":
        phases = [scoring(model, SCORED, {"weights": 2.0 * model.scorer_parameters})]
    else:
        lora, bf16 = LoraSettings(VARIANTS[name].get("r", 0)), VARIANTS[name].get("bf16", False)
        settings = {**vars(PPO), "lora": lora, "bf16": bf16}
        config = Config(policy="p", data="d", value_init="policy", **settings)
        others = {"reward model": 0.0}
        phases = policies.ppo_phases(config, model, model, others, Numbers(PROMPT, COMPLETION), Form("single"))
    return {phase.name: phase for phase in phases}


@pytest.mark.parametrize(
    "names", [("float32", "lora", "sampling", "scoring"), pytest.param(("bf16",), marks=pytest.mark.slow)]
)
def test_phases_of_real_processes_need_what_was_planned(names):
    """Within 15 %, or 8 MB: what the allocator and oneDNN keep for themselves does not grow with the model."""
    found = measured(*names)
    assert list(found[names[0]]) == [
        "rollout", "log-probabilities", "forward and backward", "optimiser step", "checkpoint"
    ]  # fmt: skip
    for name, phases in found.items():
        expected = planned(name)
        for phase, size in phases.items():
            assert expected[phase].total == pytest.approx(size, rel=0.15, abs=8e6), f"{name}: {phase}"


def test_phases_add_up_by_hand():
    """A policy of two layers with weights of its own, by the shapes on its page."""
    model = of_config("large", configuration(LARGE))
    cache = rollout("rollout", model, Decoding(10, 2, 100, 28, size=2.0), {}).parts["KV cache"]
    # keys and values, 2 bytes, 10 rows of 128 tokens, 4 layers and the one that grows, 2 key heads of 64
    assert cache == 2 * 2 * 10 * 128 * (4 + 1) * 128
    again = rollout("rollout", model, Decoding(10, 2, 100, 28, size=4.0), {}).parts["KV cache"]
    assert again == 2 * cache
