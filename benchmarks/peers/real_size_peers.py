"""vLLM and TRL 1.12.0 for `benchmarks/real_size.py`, each in an environment of its own.

PYTHON real_size_peers.py ROW SIDE FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

from meter import Meter


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def sampling_vllm(folder: Path) -> None:
    from vllm import LLM, SamplingParams

    s, meter = read(folder, "settings"), Meter()
    llm = LLM(
        model=s["model"], max_model_len=s["length"] + s["new_tokens"], enforce_eager=True, dtype=s["dtype"],
        max_num_seqs=s["problems"] * s["n"], logprobs_mode="processed_logprobs",
    )  # fmt: skip
    prompts = [row["prompt"] for row in read(folder, "rows")[: s["problems"]]]
    plain: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "logprobs": 0}
    llm.generate(prompts, SamplingParams(max_tokens=2, **plain), use_tqdm=False)  # compiles nothing, warms up
    llm.reset_prefix_cache()
    meter.start()
    outputs = llm.generate(prompts, SamplingParams(n=s["n"], max_tokens=s["new_tokens"], **plain), use_tqdm=False)
    meter.found(sum(len(one.token_ids) for output in outputs for one in output.outputs), dtype=s["dtype"])


def ppo_trl(folder: Path) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        TrainerCallback,
        set_seed,
    )
    from trl.experimental.ppo import PPOConfig, PPOTrainer  # where 1.12, the last release with PPO, keeps it

    s, meter = read(folder, "settings"), Meter()
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(s["model"], padding_side="left")
    options = {"dtype": getattr(torch, s["dtype"])}
    policy = AutoModelForCausalLM.from_pretrained(s["model"], **options)
    value, reward = (
        AutoModelForSequenceClassification.from_pretrained(s["model"], num_labels=1, **options) for _ in range(2)
    )
    rows = read(folder, "rows")[: s["rollouts"]]
    ids = [{"input_ids": tokenizer(row["prompt"])["input_ids"]} for row in rows]
    seen: list[int] = []

    class Lap(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append(1)
            if len(seen) == 1:
                meter.start()
            else:
                meter.found(s["rollouts"] * s["rollout_tokens"])

    arguments = PPOConfig(
        output_dir=str(folder / "out"), per_device_train_batch_size=s["rollouts"], gradient_accumulation_steps=1,
        num_mini_batches=4, num_ppo_epochs=1, total_episodes=2 * s["rollouts"],
        local_rollout_forward_batch_size=s["rollouts"], response_length=s["rollout_tokens"], stop_token="eos",
        temperature=1.0, learning_rate=1e-5, num_sample_generations=0, report_to="none", save_strategy="no",
        use_cpu=True, bf16=s["dtype"] == "bfloat16", gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    trainer = PPOTrainer(
        args=arguments, processing_class=tokenizer, model=policy, ref_model=None, reward_model=reward,
        value_model=value, train_dataset=Dataset.from_list(ids), eval_dataset=Dataset.from_list(ids[:1]),
        callbacks=[Lap()],
        peft_config=LoraConfig(r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )  # fmt: skip
    trainer.train()


if __name__ == "__main__":
    globals()[f"{sys.argv[1]}_{sys.argv[2]}"](Path(sys.argv[3]))
