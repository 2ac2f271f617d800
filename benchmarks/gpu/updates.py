"""Model FLOP utilisation of SFT, reward-model and PPO updates, and what bf16 changes; prints JSON.

    python benchmarks/gpu/updates.py --hidden 768 --layers 12        # about 110 million parameters
    python benchmarks/gpu/updates.py --tiny                          # seconds on a CPU, to see that it runs

Weights are random. FLOPs are 6 a parameter and token (2 forward, 4 backward; embeddings not counted) plus 12 hidden
tokens a layer for attention (Chowdhery et al. 2022, appendix B). Utilisation is a share of what one large matrix
product reaches on the same device in the same precision, which is measured here too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification

from rlhf_e2h.data.tokenizers import BUILDERS
from rlhf_e2h.rl.losses import token_logprobs
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Reward

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def configuration(a: argparse.Namespace) -> LlamaConfig:
    heads = max(1, a.hidden // 64)
    return LlamaConfig(
        vocab_size=a.vocabulary,
        hidden_size=a.hidden,
        num_hidden_layers=a.layers,
        intermediate_size=4 * a.hidden,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=a.length + 64,
        num_labels=1,
    )


def flops(model: torch.nn.Module, rows: int, length: int) -> float:
    """Of one forward and backward pass over `rows` sequences."""
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed_tokens" not in name)
    config: Any = model.config
    return rows * length * (6 * weights + 12 * config.num_hidden_layers * config.hidden_size * length)


def seconds(step: Callable[[], object], repeats: int) -> float:
    """Median time of a step after two that are not counted."""
    times = []
    for index in range(repeats + 2):
        _synchronize()
        start = time.perf_counter()
        step()
        _synchronize()
        if index > 1:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def matmul_flops(size: int, dtype: torch.dtype) -> float:
    """FLOPs a second of one large matrix product."""
    left = torch.randn(size, size, device=DEVICE, dtype=dtype)
    return 2 * size**3 / seconds(lambda: left @ left, 10)


def trained(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """One optimiser step in bf16 autocast."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def supervised(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    config = configuration(a)
    ids = torch.randint(a.vocabulary, (a.rows, a.length), device=DEVICE)
    policy = LlamaForCausalLM(config).to(DEVICE)
    sft = seconds(trained(policy, lambda: policy(input_ids=ids, labels=ids).loss), a.repeats)
    found = {"parameters": sum(p.numel() for p in policy.parameters())}
    found |= {"sft_tokens_a_second": round(a.rows * a.length / sft)}
    found["sft_mfu"] = round(flops(policy, a.rows, a.length) / sft / peak, 3)
    reward = LlamaForTokenClassification(config).to(DEVICE)
    target = torch.rand(a.rows, a.length, 1, device=DEVICE)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    rm = seconds(trained(reward, lambda: bce(reward(input_ids=ids).logits.float(), target)), a.repeats)
    found["rm_tokens_a_second"] = round(a.rows * a.length / rm)
    found["rm_mfu"] = round(flops(reward, a.rows, a.length) / rm / peak, 3)
    return found


def ppo(a: argparse.Namespace, peak: float) -> dict[str, Any]:
    """The update of PPO: policy and value model, one pass over the rollouts."""
    config = configuration(a)
    tokenizer = BUILDERS["byte"]()
    tokenizer.add_special_tokens({"eos_token": "<never>"})  # no end before the limit
    policy, value = LlamaForCausalLM(config), LlamaForTokenClassification(config)
    prompt = "# Question\n\n1+2=?\n\n# Solution\n\n"
    settings = PPOSettings(
        steps=a.repeats + 1,
        rollouts=2 * a.rows,
        num_mini_batches=2,
        per_device_train_batch_size=a.rows,
        forward_batch=a.rows,
        generation_batch=2 * a.rows,
        max_new_tokens=a.length - len(tokenizer(prompt)["input_ids"]),
        kl_coef=0.0,
        save_steps=0,
    )
    rows: list[dict[str, float]] = []

    def on_step(step: int, metrics: dict[str, float], _: Any) -> None:
        if step:
            rows.append(metrics)

    accelerator = Accelerator(mixed_precision="bf16")
    prompts = [{"prompt": prompt, "problem_id": str(i)} for i in range(2 * a.rows)]
    rewards = lambda completions: [Reward(outcome=0.5) for _ in completions]  # noqa: E731
    train_ppo(policy, None, value, tokenizer, prompts, rewards, settings, accelerator, on_step)
    update = statistics.median(row["time/update"] for row in rows)
    needed = flops(policy, 2 * a.rows, a.length) + flops(value, 2 * a.rows, a.length)
    rollout = statistics.median(row["time/rollout"] for row in rows)
    return {
        "ppo_update_s": round(update, 3),
        "ppo_update_mfu": round(needed / update / peak, 3),
        "ppo_rollout_tokens_a_second": round(2 * a.rows * settings.max_new_tokens / rollout),
        "ppo_ratio_first": rows[-1]["val/ratio_first"],
        "ppo_logprob_diff_mean": rows[-1]["rollout/logprob_diff_mean"],
    }


def precision(a: argparse.Namespace) -> dict[str, float]:
    """bf16 autocast against float32: log-probabilities of tokens, and the direction of the gradient."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(a)).to(DEVICE)
    ids = torch.randint(a.vocabulary, (min(a.rows, 4), a.length), device=DEVICE)

    def run(dtype: torch.dtype | None) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(DEVICE.type, dtype, enabled=dtype is not None):
            logits = model(input_ids=ids).logits
        logprobs = token_logprobs(logits[:, :-1], ids[:, 1:], 1.0)
        (-logprobs.mean()).backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad()
        return logprobs.detach(), gradient

    (exact, exact_gradient), (short, short_gradient) = run(None), run(torch.bfloat16)
    cosine = torch.nn.functional.cosine_similarity(exact_gradient, short_gradient, dim=0)
    difference = (exact - short).abs()
    found = {"bf16_logprob_diff_mean": float(difference.mean()), "bf16_logprob_diff_max": float(difference.max())}
    found["bf16_gradient_cosine"] = float(cosine)
    if found["bf16_logprob_diff_mean"] > 0.05 or found["bf16_gradient_cosine"] < 0.98:
        raise SystemExit(f"bf16 is too far from float32: {found}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=32, help="sequences in a batch")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a model of no size, to see that everything runs")
    a = parser.parse_args()
    if a.tiny:
        a.hidden, a.layers, a.vocabulary, a.rows, a.length, a.repeats = 64, 1, 512, 4, 64, 1
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU"
    peak = matmul_flops(256 if a.tiny else 8192, torch.bfloat16)
    found = {"device": name, "torch": torch.__version__, "matmul_tflops": round(peak / 1e12, 3)}
    print(json.dumps(found | supervised(a, peak) | ppo(a, peak) | precision(a), indent=1))


if __name__ == "__main__":
    main()
