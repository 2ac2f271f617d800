"""What stages say of themselves, and that all who ask get the same answer."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace

import pytest

from rlhf_e2h.data.firewall import allowed_scope
from rlhf_e2h.runner.traits import STAGES

# Stages whose output depends on the labels they read: weights, prompts, or (skillgraph) weights of a later mixture.
TRAIN = {
    "pretrain",
    "sft",
    "icl",
    "reward",
    "ppo",
    "dpo",
    "rest",
    "grpo",
    "gap",
    "weak_to_strong",
    "skillgraph",
    "probe_dynamics",
    "tuned_transfer",
}


@pytest.mark.parametrize("kind", STAGES)
def test_what_is_read_from_the_source_is_what_python_sees(kind):
    module = importlib.import_module(STAGES[kind].module)
    assert (
        replace(STAGES[kind], module="") == module.TRAITS
        and isinstance(module.VERSION, int)
        and module.Config
        and module.main
    )


def test_stages_come_in_the_order_in_which_data_flows():
    orders = [traits.order for traits in STAGES.values()]
    assert orders == sorted(set(orders)) and len(orders) >= 26
    flow = ["prepare", "sft", "sample", "grade", "reward", "rerank", "ppo", "evaluate", "report"]
    assert [kind for kind in STAGES if kind in flow] == flow


def test_which_stages_train():
    """Two lists said so before, and differed: one left out the studies that train, the other `pretrain`."""
    assert {kind for kind, traits in STAGES.items() if traits.trains} == TRAIN


def test_which_stages_may_read_sealed_labels():
    assert {kind for kind in STAGES if allowed_scope(kind, kind) == "full"} == {"evaluate", "programs", "speed"}
    named = {kind for kind in STAGES if allowed_scope(kind, kind, "evaluation") == "full"}
    assert named == {"evaluate", "programs", "speed", "grade"}
    assert {kind for kind in STAGES if allowed_scope(kind, kind, "selection") == "full"} == set()


def test_no_framework_is_loaded_to_know_them():
    heavy = "{'torch', 'transformers', 'trl', 'numpy'}"
    code = f"import sys, rlhf_e2h.runner.traits; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
