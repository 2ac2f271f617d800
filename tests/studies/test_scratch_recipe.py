"""The recipe data-engineering-scratch, end to end at a tiny size, in float32 and under bf16."""

import csv
import json
from pathlib import Path

import pytest
import torch

from reward_models.records import read_jsonl
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.runs import run_stage
from rlhf_e2h.runner.store import Store

RECIPE = Path(__file__).parents[2] / "recipes" / "data-engineering-scratch"
STEPS = {"format_steps": 2, "format_every": 1, "skill_steps": 4, "skill_every": 2, "domain_steps": 20, "graph_steps": 2}
TINY = [
    *[f"{name}={value}" for name, value in STEPS.items()],
    "addition.train_per_level=[0,0,80,0,0]",
    "addition.test_per_level=[0,0,3,0,0]",
    "parities.train_per_level=[140,140,140,0,0]",
    "parities.test_per_level=[3,3,3,0,0]",
    "domains.train_per_level=[40,60,60,60,0]",
    "domains.test_per_level=[3,3,3,3,0]",
    "new.shape={hidden: 16, layers: 1, intermediate: 16, heads: 1, max_positions: 256}",
    "graph.batch_size=4",
    "seeds=[0,1]",
]


@pytest.mark.slow
@pytest.mark.parametrize("bf16", ["false", "true"])
def test_the_recipe_runs(tmp_path, bf16):
    torch.set_num_threads(1)
    store = Store(load_recipe(RECIPE, [*TINY, f"bf16={bf16}", "domain_every=10", f"runs={tmp_path}"]))
    found = {}
    for name, spec in store.recipe.stages.items():
        for seed in [0] if spec.traits.all_seeds or spec.kind == "prepare" else [0, 1]:
            found[name, seed] = run_stage(store, spec, seed)
    weights = [(found["new", seed] / "model.safetensors").read_bytes() for seed in (0, 1)]
    assert weights[0] != weights[1]  # every seed has random weights of its own
    for name, runs in {"formats": 4, "skills": 4, "domains": 2}.items():
        rows = list(csv.DictReader((found[f"speed_{name}", 0] / "speed.csv").open()))
        assert len({row["run"] for row in rows}) == runs
        assert {row["seeds"] for row in rows} == {"2"}
        assert (found[f"speed_{name}", 0] / "speed.svg").is_file()
    wanted = [row for row in read_jsonl(found["target", 0] / "metrics.jsonl") if "mixture/3" in row]
    assert {(row["mixture/1"], row["mixture/2"], row["mixture/3"]) for row in wanted} == {(0, 0, 1)}
    # the main run trains on the average of the shares of the proxy's updates
    shares = json.loads((found["proxy", 1] / "mixture.json").read_text())
    assert any(abs(share - 0.25) > 1e-6 for share in shares.values())
    used = next(row for row in read_jsonl(found["doremi", 1] / "metrics.jsonl") if "mixture/1" in row)
    assert {skill: used[f"mixture/{skill}"] for skill in shares} == pytest.approx(shares)
