"""What a round of training leaves: nothing in memory, and in its model all that was learnt."""

import subprocess
import sys
from pathlib import Path

import live_worker
import pytest
from launching import cpu_launch, environment, must

WORKER = Path(__file__).parent / "live_worker.py"


def test_nothing_of_a_round_is_alive_after_it(tmp_path):
    live_worker.a_round(tmp_path / "0")
    before = live_worker.live_bytes()
    size = live_worker.a_round(tmp_path / "1")
    assert size > 500_000
    assert live_worker.live_bytes() - before < size / 100


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["zero2", "zero3"])
def test_nothing_of_a_round_under_deepspeed_is_alive_after_it(tmp_path, launch):
    """Its engine, left to itself, would keep weights, gradients, float32 copies and moments until the process ends."""
    pytest.importorskip("deepspeed")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(cpu_launch(launch, tmp_path))]
    done = subprocess.run(
        [*command, str(WORKER), str(tmp_path)], env=environment(), capture_output=True, text=True, timeout=300
    )
    must(done)
    found = [tuple(map(int, line.split()[1:])) for line in done.stdout.splitlines() if line.startswith("LIVE ")]
    assert len(found) == 2 * 4  # of two processes, before and after each of three rounds
    assert all(live < size / 100 for size, live in found)


MASTERS = """
from types import SimpleNamespace
import torch
from rlhf_e2h.training.models import ModelShape, new_llama
from rlhf_e2h.parallel.processes import is_main, leave, whole_model
from rlhf_e2h.parallel.gathering import start_accelerator
from rlhf_e2h.parallel.sharding import configure
torch.set_num_threads(1)
accelerator = start_accelerator(bf16=True)
configure(accelerator, 2, 1, 1.0)
model, _ = new_llama(ModelShape(hidden=32, layers=2, intermediate=64, heads=2, max_positions=256), "procedural", 0)
before = {name: weight.detach().bfloat16().float() for name, weight in model.named_parameters()}
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0)
engine, optimizer = accelerator.prepare(model, optimizer)
for _ in range(2):
    ids = torch.arange(1, 31).view(2, 15) % 20
    accelerator.backward(engine(input_ids=ids, labels=ids).loss)
    optimizer.step()
    optimizer.zero_grad()
full = whole_model(SimpleNamespace(accelerator=accelerator, model=engine, model_wrapped=engine))
if is_main():
    name = "model.layers.0.mlp.up_proj.weight"
    moved = (dict(full.named_parameters())[name] - before[name]).abs()
    print("MOVED", full.dtype, float((moved > 1.5e-6).float().mean()), float(moved.max()), flush=True)
    assert full.lm_head.weight is full.get_input_embeddings().weight
leave(0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["zero2", "zero3"])
def test_a_model_trained_in_bf16_keeps_what_bf16_cannot_show(tmp_path, launch):
    """Two steps of Adam at 1e-6 move a weight by 2e-6; half of the last digit of a weight of .02 in bf16 is 4e-5."""
    pytest.importorskip("deepspeed")
    (tmp_path / "worker.py").write_text(MASTERS)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(cpu_launch(launch, tmp_path))]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py")], env=environment(), capture_output=True, text=True, timeout=300
    )
    must(done)
    [(kind, share, most)] = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("MOVED ")]
    assert kind == "torch.float32"
    assert float(share) > 0.9 and float(most) < 2.1e-6
