"""TRL 1.12.0's PPOTrainer, one iteration at a time, for `benchmarks/ppo.py`; runs in an environment of its own.

    PYTHON trl_ppo.py FOLDER      # FOLDER holds policy/, reward/, prompts.json and settings.json

Waits for a line on standard input, makes one iteration, and answers with one line of JSON: seconds and metrics.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
    set_seed,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # where 1.12, the last release with PPO, keeps it

ANSWERS = os.fdopen(os.dup(1), "w")  # the trainer prints to standard output
os.dup2(2, 1)


def answer(row: dict[str, Any]) -> None:
    print(json.dumps(row), file=ANSWERS, flush=True)


class Metronome(TrainerCallback):
    """Holds the trainer between two iterations until the benchmark asks for the next."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.start = self.cpu = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        answer({"ready": True})
        self._wait()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        self.metrics = logs or {}

    def on_step_end(self, *_: Any, **__: Any) -> None:
        cpu = time.process_time() - self.cpu
        answer({"seconds": time.perf_counter() - self.start, "cpu": cpu, "score": self.metrics.get("objective/scores")})
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline().strip():
            os._exit(0)
        self.start, self.cpu = time.perf_counter(), time.process_time()


def main() -> None:
    folder = Path(sys.argv[1])
    s = json.loads((folder / "settings.json").read_text())
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy", padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder / "policy") for _ in range(2))
    value, reward = (AutoModelForSequenceClassification.from_pretrained(folder / "reward") for _ in range(2))
    prompts = json.loads((folder / "prompts.json").read_text())
    ids = [{"input_ids": tokenizer(text, add_special_tokens=False)["input_ids"]} for text in prompts]
    arguments = PPOConfig(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=s["rollouts"],  # with this, a minibatch is one micro-batch and one optimiser step
        gradient_accumulation_steps=1,
        num_mini_batches=s["num_mini_batches"],
        num_ppo_epochs=s["num_ppo_epochs"],
        total_episodes=s["rollouts"] * s["steps"],
        local_rollout_forward_batch_size=s["peer_forward_batch"],
        response_length=s["max_new_tokens"],
        stop_token="eos",
        temperature=s["temperature"],
        learning_rate=s["learning_rate"],
        kl_coef=s["kl_coef"],
        num_sample_generations=0,
        missing_eos_penalty=1.0,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        use_cpu=not s["cuda"],
        bf16=s["bf16"],
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_list(ids),
        eval_dataset=Dataset.from_list(ids[:1]),
        callbacks=[Metronome()],
    )
    trainer.train()


main()
