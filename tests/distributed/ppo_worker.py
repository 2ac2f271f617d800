"""Trains tiny models with PPO in as many processes as start it; rank 0 writes metrics and weights to a folder."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaForTokenClassification

from rlhf_e2h.parallel.gathering import start_accelerator
from rlhf_e2h.parallel.processes import leave
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Reward
from rlhf_e2h.training.models import ModelShape, new_llama

PROMPTS = [{"prompt": f"# Question\n\n{'ab'[: i % 3]}{i}+1=?\n\n# Solution\n\n"} for i in range(10)]


def reward(completions):
    """The share of 7s, and one step with a made-up score."""
    return [
        Reward([len(c.text)], [(len(c.text) % 7) / 7], c.text.count("7") / max(len(c.text), 1)) for c in completions
    ]


def train(accelerator, out: Path, checkpoints: Path | None = None, steps: int = 6, learning_rate: float = 3e-3) -> None:
    """Train for `steps` of 6 steps, from the last checkpoint if there is one."""
    torch.set_num_threads(1)
    shape = ModelShape(hidden=32, layers=2, intermediate=64, heads=2, max_positions=256)
    policy, tokenizer = new_llama(shape, "procedural", seed=0)
    reference, _ = new_llama(shape, "procedural", seed=0)
    policy.config.num_labels = 1
    torch.manual_seed(1)
    value = LlamaForTokenClassification(policy.config)
    settings = PPOSettings(
        steps=6,
        rollouts=32,
        num_mini_batches=2,
        per_device_train_batch_size=4,
        forward_batch=8,
        max_new_tokens=10,
        learning_rate=learning_rate,
        warmup_steps=1,
        max_grad_norm=10.0,  # not reached: DeepSpeed has one norm for both models, otherwise each has its own
        kl_coef=0.05,
        kl_target=0.05,
        kl_horizon=200.0,
        save_steps=2,
    )
    history = []

    def on_step(step, metrics, rollouts):
        held = sum((p.to_local() if hasattr(p, "to_local") else p).numel() for p in policy.parameters())
        started = {"processes": accelerator.num_processes, "held": held}
        history.append({"step": step, **started, **metrics, "texts": rollouts.texts[:4]})
        return step + 1 == steps

    result = train_ppo(
        policy, reference, value, tokenizer, PROMPTS, reward, settings, accelerator, on_step, checkpoints
    )
    weights = result.policy_weights if result.policy_weights is not None else policy.state_dict()
    if accelerator.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        (out / "history.json").write_text(json.dumps(history))
        named = {name: tensor.detach().float().contiguous().clone() for name, tensor in weights.items()}
        save_file(named, out / "policy.safetensors")


if __name__ == "__main__":
    bf16 = "bf16" in sys.argv
    # FOLDER, or FOLDER:STEPS to stop early with a checkpoint
    for name in [word for word in sys.argv[1:] if word != "bf16"]:
        place, _, stop = name.partition(":")
        checkpoints = Path(place) / "checkpoints"
        kept = checkpoints if stop or checkpoints.is_dir() else None
        accelerator = start_accelerator(bf16)  # one for each training: under DeepSpeed it keeps its first engine
        # in bf16 so small a rate that a step is lost in the rounding of most weights
        train(accelerator, Path(place), kept, int(stop or 6), 1e-5 if bf16 else 3e-3)
    leave(0)
