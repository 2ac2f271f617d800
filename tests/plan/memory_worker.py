"""One training stage in a process of its own; prints the bytes that it needed beyond what imports took."""

import os
import sys
from pathlib import Path

import torch
from transformers import LlamaForTokenClassification

from reward_models.lora import with_lora
from reward_models.records import Stepwise
from reward_models.settings import LoraSettings
from reward_models.train import TrainSettings, train
from rlhf_e2h.parallel.gathering import start_accelerator
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Reward
from rlhf_e2h.rl.terms import RewardTerms
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.stages import grpo as grpo_stage
from rlhf_e2h.training.arguments import TrainingSettings, fit
from rlhf_e2h.training.finetune import finetune
from rlhf_e2h.training.models import ModelShape, Policy, new_llama, save_policy

BIG = ModelShape(hidden=384, layers=6, intermediate=1032, heads=6, max_positions=512)
SMALL = ModelShape(hidden=16, layers=1, intermediate=16, heads=1, max_positions=512)
HUGE = ModelShape(hidden=512, layers=8, intermediate=1376, heads=8, max_positions=512)  # states outweigh the rest
LENGTH, ROWS = 64, 8  # tokens of a row, rows of a micro-batch
PROMPT = 16  # tokens of a PPO prompt


def resident() -> int:
    """Bytes of memory of this process; the mark of its peak is set back to that."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def text(tokens: int) -> str:
    """Text of so many tokens of the procedural tokenizer, which has one a character (but for "1+2=")."""
    return ("p=q+2;" * tokens)[:tokens]


def sft(folder: Path, shape: ModelShape, variant: str) -> None:
    run = StageRun("sft", "sft", folder, 0, folder, Tracker(folder), {})
    model, tokenizer = new_llama(shape, "procedural", 0)
    micro = ROWS // 2 if variant == "accumulate" else ROWS
    settings = TrainingSettings(
        max_steps=2, batch_size=ROWS, per_device_train_batch_size=micro, max_length=LENGTH,
        gradient_checkpointing=variant == "checkpointing",
    )  # fmt: skip
    rows = [{"prompt": text(8), "completion": text(LENGTH)}] * (2 * ROWS)
    finetune(model, tokenizer, rows, settings, run)


def reward(folder: Path, shape: ModelShape, variant: str) -> None:
    base = folder / "base"
    save_policy(*new_llama(shape, "procedural", 0), base)
    settings = TrainSettings(batch_size=ROWS, num_train_epochs=3, max_length=LENGTH, group_by_length=False)
    records = [Stepwise("p=q?", [text(LENGTH - 32)], [label], label) for label in (0, 1)] * ROWS
    train(base, records, "prm", folder / "out", settings)


def ppo(folder: Path, shape: ModelShape, variant: str) -> None:
    policy, tokenizer = new_llama(shape, "procedural", 0)
    tokenizer_eos = tokenizer.eos_token_id
    torch.nn.init.zeros_(policy.lm_head.weight[tokenizer_eos : tokenizer_eos + 1].data)
    policy.config.num_labels = 1
    value = LlamaForTokenClassification(policy.config)
    reference = new_llama(shape, "procedural", 0)[0]
    if variant == "lora":
        policy, value, reference = with_lora(policy, LoraSettings(8)), value.requires_grad_(False), None
        value.score.requires_grad_(True)
    settings = PPOSettings(
        steps=2, rollouts=2 * ROWS, num_mini_batches=2, per_device_train_batch_size=ROWS, forward_batch=ROWS,
        max_new_tokens=LENGTH - PROMPT,
        save_steps=0, warmup_steps=0, learning_rate=1e-6,
    )  # fmt: skip
    prompts = [{"prompt": text(PROMPT)}]

    def reward_fn(completions):
        return [Reward([], [], 1.0) for _ in completions]

    accelerator = start_accelerator(bf16=variant == "bf16")
    train_ppo(policy, reference, value, tokenizer, prompts, reward_fn, settings, accelerator)


def grpo(folder: Path, shape: ModelShape, variant: str) -> None:
    run = StageRun("grpo", "grpo", folder, 0, folder, Tracker(folder), {})
    policy, tokenizer = new_llama(shape, "procedural", 0)
    training = grpo_stage.GRPOTraining(
        max_steps=2, batch_size=ROWS, per_device_train_batch_size=ROWS, learning_rate=1e-6
    )
    config = grpo_stage.Config(
        "", "", outcome="none", terms=RewardTerms(format_penalty=1.0), num_generations=ROWS // 2,
        max_new_tokens=LENGTH - PROMPT, training=training,
    )  # fmt: skip
    row = {"prompt": text(PROMPT), "problem_id": "0", "problem": "", "level": 1}
    reward = grpo_stage.SummedReward(
        lambda completions: [Reward() for _ in completions], config, frozenset({tokenizer.eos_token_id})
    )
    fit(grpo_stage._trainer(config, run, Policy(policy, tokenizer), [row] * (2 * ROWS), reward), run, "GRPO")


if __name__ == "__main__":
    torch.set_num_threads(1)
    stage, variant, place = (
        {"sft": sft, "reward": reward, "ppo": ppo, "grpo": grpo}[sys.argv[1]],
        sys.argv[2],
        Path(sys.argv[3]),
    )
    place = place / os.environ.get("RANK", "0")
    for name in ("warm", "out"):
        (place / name).mkdir(parents=True)
    stage(place / "warm", SMALL, variant)  # imports and what libraries keep for themselves
    before = resident()
    stage(place / "out", HUGE if variant in ("states", "bf16") else BIG, variant)
    print(peak() - before, flush=True)
