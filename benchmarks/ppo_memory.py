"""Peak memory of PPO by how its models are held: four separate ones, with LoRA, or as adapters of one base.

    python benchmarks/ppo_memory.py --rollouts 16 --new-tokens 32

Each way is a process of its own on the CPU, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from ppo import make_models
from transformers.utils import logging as hf_logging

from reward_models.adapters import fingerprint, read_adapter, save_adapter
from reward_models.contract import StepContract
from reward_models.lora import with_lora
from reward_models.prepare import prepare_model
from reward_models.score import Scorer
from reward_models.settings import LoraSettings, TrainSettings
from rlhf_e2h.data.procedural import make_problems
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.share_base import share_base, share_reward
from rlhf_e2h.rl.sources import RewardSources
from rlhf_e2h.rl.value_model import train_parts, value_from_reward_model
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama

MEMORY_MODES = ("separate", "separate_lora", "share_base", "share_all")  # the last with the reward model too


def make_adapter(folder: Path) -> None:
    """prm_lora/adapter: a reward model as LoRA training on policy/ keeps it, with random numbers in it."""
    prm = prepare_model(folder / "policy", StepContract("prm"), TrainSettings(lora=LoraSettings(8)))
    generator = torch.Generator().manual_seed(2)
    for name, parameter in prm.named_parameters():
        if "lora_B" in name or ".modules_to_save.default.weight" in name:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    save_adapter(prm, folder / "prm_lora")


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of two PPO steps above that of an idle process, each mode in a process of its own."""
    found: dict[str, Any] = {}
    # freed tensors go back to the system at once, so that a process holds what lives
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hidden = arguments.hidden
        make_models(folder, ModelShape(hidden, arguments.layers, 3 * hidden, hidden // 32), full=False)
        make_adapter(folder)
        for mode in MEMORY_MODES:
            command = [sys.executable, __file__, "--memory-of", mode, "--folder", name]
            for option in ("rollouts", "new_tokens", "micro_batch"):
                command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
            found[mode] = json.loads(done.stdout.splitlines()[-1])
            print(mode, found[mode], file=sys.stderr, flush=True)
    base = found["separate"]["peak_mib"]
    return {"hidden": hidden, **found, "ratio": {m: round(found[m]["peak_mib"] / base, 3) for m in MEMORY_MODES}}


def memory_of(mode: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """MiB of one process above what it holds with all libraries loaded and no model: the peak, and by phase."""
    accelerator = Accelerator()
    _warm_libraries()
    before = _forget_peak()
    settings = PPOSettings(
        steps=2,
        rollouts=arguments.rollouts,
        num_mini_batches=2,
        per_device_train_batch_size=arguments.micro_batch,
        forward_batch=2 * arguments.micro_batch,
        generation_batch=arguments.rollouts,
        max_new_tokens=arguments.new_tokens,
        save_steps=0,
    )
    policy, reference, value, scorer, tokenizer = memory_models(mode, folder, accelerator.device)
    weights = sum(p.numel() for p in policy.parameters()) * 4 / 2**20
    problems = make_problems(dict.fromkeys(range(1, 6), 10), seed=11)
    rows = [{**problem, "prompt": SECTIONS.prompt(problem["problem"])} for problem in problems]
    rewards = RewardSources({}, None, scorer)
    peaks = {"loading": _peak_mib() - before}

    def phase(name: str) -> None:
        peaks[name] = max(peaks.get(name, 0.0), _peak_mib() - before)
        _forget_peak()

    def reward(completions: Any) -> Any:
        phase("rollout")
        found = rewards(completions)
        phase("reward")
        return found

    def on_step(step: int, metrics: dict[str, float], _: Any) -> None:
        phase("evaluation and update")

    _forget_peak()
    train_ppo(policy, reference, value, tokenizer, rows, reward, settings, accelerator, on_step)
    found = {
        "peak_mib": max(peaks.values()),
        "policy_weights_mib": weights,
        "held_mib": _forget_peak() - before,
        **peaks,
    }
    return {name: round(size, 1) for name, size in found.items()}


def memory_models(mode: str, folder: Path, device: torch.device) -> tuple[Any, Any, Any, Scorer, Any]:
    """(policy, reference, value model, scorer, tokenizer) of a mode."""
    policy, tokenizer = load_policy(folder / "policy")
    lora = LoraSettings(r=8)
    if mode == "share_all":
        saved = read_adapter(folder / "prm_lora")
        saved.check_base(fingerprint(policy), "policy")
        policy, value = share_base(policy, lora)
        reward = share_reward(policy, "reward_adapter", saved)
        value.start_from(reward, zero_head=False)
        return policy, None, value, Scorer(reward, tokenizer, StepContract("prm")), tokenizer
    if mode == "share_base":
        policy, value = share_base(policy, lora)
        return policy, None, value, Scorer.from_pretrained(folder / "prm", device), tokenizer
    trained = value_from_reward_model(folder / "prm", tokenizer, zero_head=False)
    reference, _ = load_policy(folder / "policy")
    if mode == "separate_lora":
        policy, trained = with_lora(policy, lora), train_parts(trained, False, lora)
    return policy, reference, trained, Scorer.from_pretrained(folder / "prm", device), tokenizer


def _warm_libraries() -> None:
    """Load what is loaded lazily, so that it is not counted as a model's."""
    import peft  # noqa: F401

    tiny, _ = new_llama(ModelShape(16, 1, 16, 1), "procedural", seed=0)
    optimizer = torch.optim.AdamW(tiny.parameters(), fused=True)
    tiny(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()


def _forget_peak() -> float:
    """MiB of memory of this process; the mark of its peak is set back to that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_mib()


def _peak_mib() -> float:
    # not `ru_maxrss`: that of a new process begins with the peak of the one that started it
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=90)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--memory-of", choices=MEMORY_MODES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    hf_logging.set_verbosity_error()
    if arguments.memory_of:
        print(json.dumps(memory_of(arguments.memory_of, arguments.folder, arguments)))
    else:
        print(json.dumps(memory(arguments), indent=1))


if __name__ == "__main__":
    main()
