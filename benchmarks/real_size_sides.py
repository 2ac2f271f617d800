"""What `benchmarks/real_size.py` measures in this project's own environment.

PYTHON real_size_sides.py ROW SIDE FOLDER
"""

from __future__ import annotations

import contextlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch
from meter import Meter
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()
LORA = {"r": 16, "lora_alpha": 16}


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


class Run(types.SimpleNamespace):
    """As much of a stage's run as fine-tuning asks for; the clock starts after the first update."""

    def __init__(self, folder: Path, meter: Meter) -> None:
        super().__init__(scratch=folder / "scratch", out=folder, name="sft", seed=0, is_main=True, results={})
        self.meter = meter

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None

    @contextlib.contextmanager
    def progress(self, *_: Any, **__: Any) -> Any:
        yield types.SimpleNamespace(update=lambda step: self.meter.start() if step == 1 else None)


def in_bf16(settings: dict[str, Any]) -> bool:
    return bool(settings["dtype"] == "bfloat16")


def sft_rows(folder: Path, tokenizer: Any) -> tuple[list[dict[str, str]], int]:
    """The rows of all updates, and the tokens of all but the first update's."""
    s = read(folder, "settings")
    texts = read(folder, "rows")
    rows = [texts[place % len(texts)] for place in range(4 * s["updates"])]
    lengths = [min(s["length"], len(tokenizer(r["prompt"] + r["completion"])["input_ids"]) + 1) for r in rows]
    return rows, sum(lengths[4:])


def sft_ours(folder: Path) -> None:
    from reward_models.settings import LoraSettings
    from rlhf_e2h.training.arguments import TrainingSettings
    from rlhf_e2h.training.finetune import finetune
    from rlhf_e2h.training.models import open_policy

    s, meter = read(folder, "settings"), Meter()
    settings = TrainingSettings(
        batch_size=4, per_device_train_batch_size=4, max_length=s["length"], max_steps=s["updates"],
        bf16=in_bf16(s),
        lora=LoraSettings(**LORA),
    )  # fmt: skip
    dtype = "float32"
    with contextlib.suppress(ImportError):  # older code has no choice
        from rlhf_e2h.training.precision import training_dtype

        dtype = training_dtype(s["model"], settings)
    policy = open_policy(s["model"], dtype)
    rows, tokens = sft_rows(folder, policy.tokenizer)
    _, loss = finetune(policy.model, policy.tokenizer, rows, settings, Run(folder, meter))
    meter.found(tokens, loss=round(loss, 3))


def sft_plain(folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    s, meter = read(folder, "settings"), Meter()
    tokenizer = AutoTokenizer.from_pretrained(s["model"])
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=getattr(torch, s["dtype"]))
    config = LoraConfig(**LORA, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(model, config)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    rows, tokens = sft_rows(folder, tokenizer)
    losses = []
    for start in range(0, len(rows), 4):
        encoded = []
        for row in rows[start : start + 4]:
            prompt = tokenizer(row["prompt"])["input_ids"]
            ids = [*prompt, *tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id][: s["length"]]
            encoded.append((ids, [-100] * len(prompt[: s["length"]]) + ids[len(prompt) :]))
        width = max(len(ids) for ids, _ in encoded)
        ids_BT = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in encoded])
        labels_BT = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in encoded])
        mask_BT = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in encoded])
        loss = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
        if start == 0:
            meter.start()
    meter.found(tokens, loss=round(sum(losses) / len(losses), 3))


def sampling_ours(folder: Path) -> None:
    from rlhf_e2h.rl.rollout import generate
    from rlhf_e2h.training.models import load_policy

    s, meter = read(folder, "settings"), Meter()
    model, tokenizer = load_policy(s["model"], s["dtype"])
    prompts = [row["prompt"] for row in read(folder, "rows")[: s["problems"]]]
    generate(model, tokenizer, prompts[:1], max_new_tokens=2)
    meter.start()
    rollouts = generate(model, tokenizer, prompts, n=s["n"], max_new_tokens=s["new_tokens"], seed=1)
    meter.found(sum(map(len, rollouts.completion_ids)), dtype=s["dtype"])


def sampling_generate(folder: Path) -> None:
    s, meter = read(folder, "settings"), Meter()
    tokenizer = AutoTokenizer.from_pretrained(s["model"], padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=getattr(torch, s["dtype"]))
    prompts = [row["prompt"] for row in read(folder, "rows")[: s["problems"]]]
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(ends if isinstance(ends, list) else [ends])
    encoded = tokenizer(prompts, return_tensors="pt", padding=True, return_token_type_ids=False)
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    with torch.no_grad():
        model.generate(**{name: part[:1] for name, part in encoded.items()}, max_new_tokens=2, **options)
        meter.start()
        found = model.generate(**encoded, num_return_sequences=s["n"], max_new_tokens=s["new_tokens"], **options)
    found = found[:, encoded["input_ids"].shape[1] :]
    ended = torch.isin(found, ends)
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, found.shape[1])
    meter.found(int(lengths.sum()), dtype=s["dtype"])


def ppo_ours(folder: Path) -> None:
    from accelerate import Accelerator

    from reward_models.lora import with_lora
    from reward_models.settings import LoraSettings
    from rlhf_e2h.rl.ppo import train_ppo
    from rlhf_e2h.rl.ppo_settings import PPOSettings
    from rlhf_e2h.rl.rewards import Reward
    from rlhf_e2h.rl.value_model import train_parts, value_from_policy
    from rlhf_e2h.training.models import load_policy
    from rlhf_e2h.training.precision import hold_frozen, training_dtype

    s, meter, lora = read(folder, "settings"), Meter(), LoraSettings(**LORA)
    policy, tokenizer = load_policy(
        s["model"], training_dtype(s["model"], types.SimpleNamespace(bf16=in_bf16(s), lora=lora))
    )
    value = train_parts(value_from_policy(s["model"]), False, lora)
    policy = with_lora(policy, lora)
    for model in (policy, value):
        hold_frozen(model, in_bf16(s), always_autocast=True)
    settings = PPOSettings(
        steps=2, rollouts=s["rollouts"], num_mini_batches=4, per_device_train_batch_size=s["rollouts"] // 4,
        warmup_steps=0,
        max_new_tokens=s["rollout_tokens"], save_steps=0, learning_rate=1e-5, step_scheme="terminal",
    )  # fmt: skip
    seen = []

    def on_step(step: int, metrics: dict[str, float], rollouts: Any) -> None:
        seen.append(sum(map(len, rollouts.completion_ids)))
        if step == 0:
            meter.start()
        else:
            meter.found(seen[-1], **{k: round(v, 2) for k, v in metrics.items() if k.startswith("time/")})

    rows = [{"prompt": row["prompt"]} for row in read(folder, "rows")[: s["rollouts"]]]
    train_ppo(
        policy, None, value, tokenizer, rows, lambda completions: [Reward([len(c.text)], [0.5]) for c in completions],
        settings, Accelerator(mixed_precision="bf16" if in_bf16(s) else "no"), on_step,
    )  # fmt: skip


def reward_model(folder: Path, s: dict[str, Any]) -> Path:
    from reward_models.contract import StepContract
    from reward_models.model import head_of, new_model

    prm = new_model(s["model"], StepContract("prm"), dtype=getattr(torch, s["dtype"]))
    torch.nn.init.normal_(head_of(prm).weight, std=0.02, generator=torch.Generator().manual_seed(1))
    prm.save_pretrained(folder / "prm")
    AutoTokenizer.from_pretrained(s["model"]).save_pretrained(folder / "prm")
    return folder / "prm"


def scoring_ours(folder: Path) -> None:
    from reward_models.score import Scorer

    s = read(folder, "settings")
    path = reward_model(folder, s)
    meter = Meter()
    scorer = Scorer.from_pretrained(path, "cpu", getattr(torch, s["dtype"]))
    items = [(one["problem"], one["steps"]) for one in read(folder, "solutions")]
    list(scorer.score_stream(items[:2]))
    meter.start()
    scored = list(scorer.score_stream(items))
    meter.found(sum(one.tokens for one in scored))


def scoring_pipeline(folder: Path) -> None:
    from transformers import pipeline

    from reward_models.contract import StepContract

    s = read(folder, "settings")
    path = reward_model(folder, s)
    meter = Meter()
    pipe = pipeline("token-classification", str(path), dtype=getattr(torch, s["dtype"]), device="cpu")
    contract = StepContract("prm")
    pairs = [(one["problem"], one["steps"]) for one in read(folder, "solutions")]
    texts = [contract.prompt(problem) + contract.separator.join(steps) for problem, steps in pairs]
    list(pipe(texts[:2], batch_size=1))
    meter.start()
    list(pipe(texts, batch_size=8))
    meter.found(sum(len(pipe.tokenizer(text)["input_ids"]) for text in texts))


if __name__ == "__main__":
    globals()[f"{sys.argv[1]}_{sys.argv[2]}"](Path(sys.argv[3]))
