"""The checks of run.py. Each returns what it measured, and raises AssertionError with the two numbers that disagree."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from meter import CUDA, Meter, held, tidy
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForTokenClassification, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from updates import matmul_flops

from reward_models.lora import with_lora
from reward_models.settings import LoraSettings
from rlhf_e2h.parallel.gathering import start_accelerator
from rlhf_e2h.rl.engine_settings import EngineSettings, Sampling
from rlhf_e2h.rl.engines import open_engine
from rlhf_e2h.rl.losses import token_logprobs
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Reward
from rlhf_e2h.rl.rollout import Rollouts, generate
from rlhf_e2h.rl.value_model import train_parts
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.stages.ppo import Config
from rlhf_e2h.tools.plan.data import Numbers
from rlhf_e2h.tools.plan.memory import Form
from rlhf_e2h.tools.plan.policies import ppo_phases
from rlhf_e2h.training.architecture import of_config
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.finetune import finetune
from rlhf_e2h.training.flops import training_flops
from rlhf_e2h.training.models import open_policy, save_policy
from rlhf_e2h.training.precision import hold_frozen

ROOT = Path(__file__).parents[2]
DEVICE = torch.device("cuda" if CUDA else "cpu")
OVER = 1.1  # measured over planned, at most
NEAR = 2e-2  # mean difference of two log-probabilities of a token in bf16
NOISE = 0.0 if CUDA else 3e8  # bytes that a process on a CPU needs for other things
QWEN = {"hidden_size": 1536, "num_hidden_layers": 28, "intermediate_size": 8960, "num_attention_heads": 12}
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4}


@dataclass(frozen=True)
class Shapes:
    """A model and the PPO stage to run it in."""

    model: dict[str, int]
    vocabulary: int
    config: Config
    prompt: int  # tokens

    @classmethod
    def recipe(cls) -> Shapes:
        """Those of the 1.5B recipe, with half of its rollouts a step and two steps."""
        spec = load_recipe(ROOT / "recipes/qwen2.5-math-1.5b", ["ppo_steps=2", "rollouts=128"]).stages["ppo"]
        config = dataclasses.replace(spec.config, reward_model=None, value_init="policy", eval_steps=0, keep="last")
        return cls(QWEN, 151_936, config, 110)

    @classmethod
    def tiny(cls) -> Shapes:
        config = Config(
            policy="p", data="d", value_init="policy", lora=LoraSettings(8), bf16=True, steps=2, rollouts=8,
            num_mini_batches=2, per_device_train_batch_size=2, max_new_tokens=24,
        )  # fmt: skip
        return cls(SMALL, 2048, config, 12)

    def language_model(self) -> Any:
        return made(self.model, self.vocabulary)

    def settings(self) -> PPOSettings:
        return dataclasses.replace(self.config, warmup_steps=0, save_steps=1, kl_stop=None, kl_alarm=None)


def made(shape: dict[str, int], vocabulary: int) -> Any:
    """A model of Qwen's architecture with random weights."""
    config = Qwen2Config(
        **shape, vocab_size=vocabulary, num_key_value_heads=2, tie_word_embeddings=True, num_labels=1,
        max_position_embeddings=2048, bos_token_id=None, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with DEVICE:  # random numbers for billions of weights take a CPU minutes
        return Qwen2ForCausalLM(config)


def words(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of as many words as the model has embeddings, so that all of them are sampled."""
    named = {"<end>": 0, "<unknown>": 1, **{f"w{number}": number for number in range(2, vocabulary)}}
    core = Tokenizer(models.WordLevel(named, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<unknown>")


def prompts(count: int, length: int, vocabulary: int) -> list[dict[str, str]]:
    rows = torch.randint(2, vocabulary, (count, length), generator=torch.Generator().manual_seed(0)).tolist()
    return [{"prompt": " ".join(f"w{number}" for number in row), "problem_id": str(i)} for i, row in enumerate(rows)]


def ppo_in_plan(shapes: Shapes, folder: Path) -> dict[str, Any]:
    """Two steps of PPO; the peak of every phase within what `e2h plan` says of it."""
    settings, meter, rows = shapes.settings(), Meter(), []
    with meter.watching():
        trained = _train(shapes, settings, folder, lambda _, metrics, __: rows.append(metrics))
    architecture = of_config("model", trained.config)
    numbers = Numbers(shapes.prompt, settings.max_new_tokens)
    phases = ppo_phases(settings, architecture, architecture, {"reward model": 0.0}, numbers, Form("single"))
    planned = {phase.name: phase.total for phase in phases}
    found: dict[str, Any] = {"gigabytes": {}}
    for name, size in meter.found.items():
        found["gigabytes"][name] = {"planned": round(planned[name] / 1e9, 3), "measured": round(size / 1e9, 3)}
    for name, size in meter.found.items():
        assert size <= OVER * planned[name] + NOISE, (
            f"{name} needed {size / 1e9:.2f} GB, planned were {planned[name] / 1e9:.2f}"
        )
    tokens = rows[-1]["rollout/tokens"] * settings.rollouts
    found["rollout_tokens_a_second"] = round(tokens / rows[-1]["time/rollout"])
    found["update_tokens_a_second"] = round(tokens / rows[-1]["time/update"])
    length = shapes.prompt + rows[-1]["rollout/tokens"]
    read = settings.num_ppo_epochs * settings.rollouts * length
    checkpointing = shapes.config.gradient_checkpointing
    work = training_flops(architecture, read, length, settings.num_ppo_epochs * tokens, checkpointing)
    work += training_flops(architecture, read, length, 0, checkpointing)
    reached = matmul_flops(8192 if CUDA else 256, torch.bfloat16)
    found["update_mfu"] = round(work / rows[-1]["time/update"] / reached, 3)
    found["matmul_tflops"] = round(reached / 1e12, 3)
    mean = rows[0]["sampling/sampling_logp_difference/mean"]
    found["logprob_difference"] = {"mean": mean, "max": rows[0]["sampling/sampling_logp_difference/max"]}
    assert mean <= NEAR, f"log-probabilities of sampler and trainer differ by {mean:.4f} a token, allowed are {NEAR}"
    return found


def _train(shapes: Shapes, settings: PPOSettings, folder: Path, on_step: Any) -> Any:
    lora, config = shapes.config.lora, shapes.config
    base = shapes.language_model()
    with DEVICE:
        value = AutoModelForTokenClassification.from_config(base.config)
    value.model.load_state_dict(base.model.state_dict())
    policy, value = with_lora(base, lora), train_parts(value, config.value_head_only, lora)
    if config.gradient_checkpointing:
        for model in (policy, value):
            model.gradient_checkpointing_enable()
    for model in (policy, value) if lora.r else ():  # as the stage does
        hold_frozen(model, config.bf16, always_autocast=True)
    reference = None if lora.r else shapes.language_model().requires_grad_(False)
    if reference is not None:
        hold_frozen(reference, config.bf16, linear_only=True)
    asked = prompts(settings.prompts_per_step, shapes.prompt, shapes.vocabulary)
    tokenizer, accelerator = words(shapes.vocabulary), start_accelerator(config.bf16)
    train_ppo(policy, reference, value, tokenizer, asked, _reward, settings, accelerator, on_step, folder)
    return policy.get_base_model() if lora.r else policy


def _reward(completions: Any) -> list[Reward]:
    return [Reward(outcome=float(len(c.text) % 2)) for c in completions]


@torch.no_grad()
def trainer_logprobs(model: Any, rollouts: Rollouts) -> list[float]:
    """Log-probabilities of the sampled tokens, a plain forward pass a completion under autocast."""
    found: list[float] = []
    for prompt, completion in zip(rollouts.prompt_ids, rollouts.completion_ids, strict=True):
        ids = torch.tensor([prompt + completion], device=model.device)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits = model(input_ids=ids, logits_to_keep=len(completion) + 1).logits[:, :-1]
        found += token_logprobs(logits, ids[:, -len(completion) :], 1.0)[0].tolist()
    return found


def _difference(model: Any, rollouts: Rollouts, what: str) -> dict[str, Any]:
    sampled = [value for row in rollouts.logprobs for value in row]
    differences = [abs(a - b) for a, b in zip(sampled, trainer_logprobs(model, rollouts), strict=True)]
    mean = statistics.mean(differences)
    assert mean <= NEAR, f"log-probabilities of {what} and trainer differ by {mean:.4f} a token, allowed are {NEAR}"
    return {"tokens": len(sampled), "mean": round(mean, 5), "max": round(max(differences), 5)}


def log_probabilities(shapes: Shapes) -> dict[str, Any]:
    """A bf16 policy that samples, as banks are sampled, against bf16 autocast, as the trainer reads them."""
    model = shapes.language_model().to(DEVICE, torch.bfloat16)
    asked = [row["prompt"] for row in prompts(4, shapes.prompt, shapes.vocabulary)]
    rollouts = generate(model, words(shapes.vocabulary), asked, n=2, max_new_tokens=24)
    return _difference(model, rollouts, "sampler")


def vllm(shapes: Shapes) -> dict[str, Any]:
    model = shapes.language_model().to(DEVICE, torch.bfloat16)
    asked = [row["prompt"] for row in prompts(8, shapes.prompt, shapes.vocabulary)]
    context = shapes.prompt + 64
    engine = open_engine(EngineSettings("vllm", memory_share=0.4, context=context), model, words(shapes.vocabulary))
    try:
        return _difference(model, engine.sample(asked, Sampling(n=4, max_new_tokens=32)), "vLLM")
    finally:
        engine.close()


def resume(folder: Path) -> dict[str, Any]:
    """A run stopped after its first step and started again has the weights of one that was not stopped."""
    shapes = Shapes.tiny()
    settings = shapes.settings()
    whole = _weights(_train(shapes, settings, folder / "whole", None))
    _train(shapes, settings, folder / "parts", lambda *_: True)  # ends after a step
    steps: list[int] = []
    resumed = _weights(_train(shapes, settings, folder / "parts", lambda step, *_: steps.append(step)))
    assert steps == [1], f"resumed at steps {steps}, not at [1]"
    most = max(float((whole[name] - resumed[name]).abs().max()) for name in whole)
    limit = 1e-4 if CUDA else 0.0
    assert most <= limit, f"weights differ by {most} after resuming, allowed are {limit}"
    return {"difference": most}


def _weights(model: Any) -> dict[str, Any]:
    return {name: value.detach().float().cpu().clone() for name, value in model.state_dict().items() if "lora" in name}


def rounds(folder: Path, count: int = 3) -> dict[str, Any]:
    """Rounds of sampling and fine-tuning, as ReST-EM makes them; what is held after the last is that of the first."""
    shapes = Shapes.tiny()
    save_policy(shapes.language_model(), words(shapes.vocabulary), folder / "round_0")
    after = []
    for number in range(count):
        _round(folder, number)
        tidy()
        after.append(held())
    growth = after[-1] - after[0]
    assert growth <= 1e6, f"{growth / 1e6:.1f} MB more are held after round {count} than after the first"
    return {"megabytes_after_round": [round(size / 1e6, 2) for size in after]}


def _round(folder: Path, number: int) -> None:
    shapes = Shapes.tiny()
    policy = open_policy(folder / f"round_{number}", device=DEVICE)
    asked, tokenizer = prompts(8, shapes.prompt, shapes.vocabulary), words(shapes.vocabulary)
    sampled = generate(policy.model, tokenizer, [row["prompt"] for row in asked], max_new_tokens=16)
    rows = [{"prompt": row["prompt"], "completion": text} for row, text in zip(asked, sampled.texts, strict=True)]
    out = folder / f"round_{number + 1}"
    out.mkdir()
    run = StageRun("rest", "rest", out, 0, out, Tracker(out), {})
    settings = TrainingSettings(
        max_steps=2, batch_size=4, per_device_train_batch_size=4, bf16=True, lora=shapes.config.lora
    )
    model, _ = finetune(policy.model, tokenizer, rows, settings, run)
    save_policy(model, tokenizer, out)


__all__ = ["Shapes", "log_probabilities", "ppo_in_plan", "resume", "rounds", "vllm"]
