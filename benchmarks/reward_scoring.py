"""Scoring figures of `reward_models`, each side by side with what it replaces, in one run on one machine.

    python benchmarks/reward_scoring.py --out reward_scoring.json            # about ten minutes on two cores
    python benchmarks/reward_scoring.py --quick                              # a minute, for a look

Models are random (speed does not depend on what a model has learned). Every comparison scores the same texts and checks
that both sides agree to 1e-4 before their times count. Set OMP_NUM_THREADS to the cores you have to yourself.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, pipeline
from transformers.utils import logging as hf_logging

from reward_models.contract import StepContract
from reward_models.model import load_tokenizer, new_model
from reward_models.score import Scorer

WORDS = [
    "so",
    "we",
    "add",
    "the",
    "two",
    "and",
    "get",
    "then",
    "subtract",
    "from",
    "total",
    "leaves",
    "apples",
    "per",
    "day",
]
PIPELINE_BATCHES = (1, 8, 32, 128)


def make_model(folder: Path, hidden: int, layers: int, seed: int = 0) -> Path:
    """A reward model of a shape, with a random head, saved with its contract."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=4096
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32 if hidden < 512 else hidden // 64,
        max_position_embeddings=4096,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    model = new_model(folder, StepContract("prm"))
    torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = fast.pad_token_id
    model.save_pretrained(folder)
    return folder


def solutions(count: int, steps: tuple[int, int], words: int, seed: int, problem_words: int = 20) -> list:
    """(problem, steps) pairs of random words."""
    rng = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(length))

    return [
        (text(problem_words), [text(rng.randint(words // 2, words)) for _ in range(rng.randint(*steps))])
        for _ in range(count)
    ]


def seconds(action: Callable[[], Any], repeats: int = 3) -> float:
    """Shortest of several times; one warm-up first."""
    action()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def check_equal(ours: list[list[float]], theirs: list[list[float]]) -> None:
    """Both sides must have scored the same thing."""
    worst = max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))
    if worst > 1e-4:
        raise SystemExit(f"the two sides differ by {worst}: the comparison is worth nothing")


def one_pass(scorer: Scorer, count: int) -> dict[str, Any]:
    """All steps in one pass against a pass for each step over the growing prefix, one by one as RLHFlow does."""
    steps = 8
    items = solutions(count, (steps, steps), 16, seed=1)
    contract, tokenizer, model = scorer.contract, scorer.tokenizer, scorer.model

    @torch.inference_mode()
    def per_step() -> list[list[float]]:
        found = []
        for problem, parts in items:
            logits = []
            for end in range(1, len(parts) + 1):
                text = contract.prompt(problem) + contract.separator.join(parts[:end])
                logits.append(
                    model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0, -1, 0].item()
                )
            found.append(logits)
        return found

    def ours_one_by_one() -> list[list[float]]:
        return [scorer.score(problem, [parts])[0].logits for problem, parts in items]

    check_equal(ours_one_by_one(), per_step())
    theirs = seconds(per_step, 2)
    single, batched = seconds(ours_one_by_one, 2), seconds(lambda: list(scorer.score_stream(items)), 2)
    return {
        "steps": steps,
        "goal": 0.8 * steps,
        "speedup": theirs / batched,
        "speedup_one_solution_at_a_time": theirs / single,
        "solutions_per_second": count / batched,
    }


def against_pipeline(scorer: Scorer, folder: Path, count: int) -> dict[str, Any]:
    """Mixed lengths against the token-classification pipeline with its best batch size."""
    items = solutions(count, (1, 12), 24, seed=2)
    contract = scorer.contract
    texts = [contract.prompt(problem) + contract.separator.join(parts) for problem, parts in items]
    times: dict[int, float] = {}
    for batch in PIPELINE_BATCHES:
        pipe = pipeline(
            "token-classification", str(folder), tokenizer=load_tokenizer(folder), dtype=torch.float32, device="cpu"
        )
        started = time.perf_counter()
        found = pipe(texts[: count // 4], batch_size=batch)
        times[batch] = (time.perf_counter() - started) * 4
        if len(found) != count // 4:
            raise SystemExit("the pipeline lost texts")
    best = min(times, key=lambda batch: times[batch])
    started = time.perf_counter()
    pipe(texts, batch_size=best)
    theirs = time.perf_counter() - started
    ours = seconds(lambda: list(scorer.score_stream(items)), 2)
    return {"goal": 2.0, "speedup": theirs / ours, "pipeline_batch": best, "ours_s": ours, "pipeline_s": theirs}


def prefix_reuse(scorer: Scorer, plain: Scorer) -> dict[str, Any]:
    """64 samples of one problem whose text is half of the tokens, or more."""
    result: dict[str, Any] = {"goal": 1.3}
    for share in (0.5, 0.75):
        items = solutions(64, (4, 4), 16, seed=3)
        solution_tokens = sum(len(scorer.tokenizer(" ".join(parts))["input_ids"]) for _, parts in items) / 64
        problem = solutions(1, (1, 1), 2, 4, int(solution_tokens * share / (1 - share)))[0][0]
        bodies = [parts for _, parts in items]
        ours, theirs = scorer.score(problem, bodies), plain.score(problem, bodies)
        check_equal([score.logits for score in ours], [score.logits for score in theirs])
        speedup = seconds(lambda p=problem, b=bodies: plain.score(p, b)) / seconds(
            lambda p=problem, b=bodies: scorer.score(p, b)
        )
        result[f"speedup_prompt_{int(100 * share)}_percent"] = speedup
    result["speedup"] = result["speedup_prompt_50_percent"]
    return result


def efficiency(folder: Path) -> dict[str, Any]:
    """Share of the machine's own matrix-multiply rate that a forward pass in bf16 reaches."""
    scorer = Scorer.from_pretrained(folder, dtype=torch.bfloat16)
    parameters = sum(p.numel() for name, p in scorer.model.named_parameters() if "embed" not in name)
    items = solutions(24, (8, 8), 20, seed=5)
    tokens = sum(score.tokens for score in scorer.score_stream(items))
    rate = 2 * parameters * tokens / seconds(lambda: list(scorer.score_stream(items)), 2)
    hidden = scorer.model.config.hidden_size
    left, right = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((2048, hidden), (4 * hidden, hidden)))
    product = 2 * 2048 * 4 * hidden * hidden / seconds(lambda: torch.nn.functional.linear(left, right), 10)
    return {
        "goal": 0.6,
        "efficiency": rate / product,
        "parameters_without_embeddings": parameters,
        "forward_gflops": rate / 1e9,
        "matmul_gflops": product / 1e9,
    }


def server(folder: Path, scorer: Scorer, duration: float) -> dict[str, Any]:
    """32 clients in a loop against the scorer called directly with the same work."""
    items = solutions(16, (4, 8), 16, seed=6)
    body = {"query": items[0][0], "documents": ["\n\n".join(parts) for _, parts in items]}
    many = [(items[0][0], parts) for _ in range(32) for _, parts in items]
    direct = len(many) / seconds(lambda: list(scorer.score_stream(many)), 2)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "reward_models", "serve", str(folder), "--port", str(port)])
    try:
        times, errors, elapsed = asyncio.run(_drive(f"http://127.0.0.1:{port}", body, duration))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    times.sort()
    rate = len(times) * len(items) / elapsed
    return {
        "goal": 0.8,
        "share_of_direct": rate / direct,
        "solutions_per_second": rate,
        "direct_solutions_per_second": direct,
        "requests": len(times),
        "errors": errors,
        "p50_s": times[len(times) // 2],
        "p99_s": times[int(len(times) * 0.99)],
        "seconds": elapsed,
    }


async def _drive(url: str, body: dict[str, Any], duration: float) -> tuple[list[float], int, float]:
    times: list[float] = []
    errors = 0
    content, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}

    async def client(http: httpx.AsyncClient, end: float) -> None:
        nonlocal errors
        while time.perf_counter() < end:
            started = time.perf_counter()
            answer = await http.post("/v1/rerank", content=content, headers=headers)
            times.append(time.perf_counter() - started)
            errors += answer.status_code != 200

    limits = httpx.Limits(max_connections=32)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as http:
        for _ in range(3000):
            try:
                await http.get("/health")
                break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
        await http.post("/v1/rerank", content=content, headers=headers)
        started = time.perf_counter()
        await asyncio.gather(*(client(http, started + duration) for _ in range(32)))
        return times, errors, time.perf_counter() - started


def memory(scorer: Scorer, count: int) -> dict[str, Any]:
    """Peak memory after a tenth of a stream and after all of it."""
    base = solutions(500, (1, 4), 8, seed=7)
    peaks = []
    for place, _ in enumerate(scorer.score_stream(base[n % 500] for n in range(count)), start=1):
        if place in (count // 10, count):
            peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {"solutions": count, "peak_mib_after_a_tenth": peaks[0], "peak_mib_at_the_end": peaks[1]}


def main() -> None:
    """Run all comparisons and print one JSON object."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", help="JSON file to write as well")
    arguments.add_argument("--quick", action="store_true", help="fewer solutions, a short server run")
    arguments.add_argument("--only", nargs="*", help="names of figures")
    options = arguments.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    quick = options.quick
    with tempfile.TemporaryDirectory() as root:
        small = make_model(Path(root) / "small", 128, 4)
        scorer, plain = (Scorer.from_pretrained(small, device="cpu", prefix_reuse=reuse) for reuse in (True, False))
        figures: dict[str, Callable[[], dict[str, Any]]] = {
            "one_pass": lambda: one_pass(scorer, 20 if quick else 100),
            "pipeline": lambda: against_pipeline(scorer, small, 200 if quick else 2000),
            "prefix_reuse": lambda: prefix_reuse(scorer, plain),
            "efficiency": lambda: efficiency(make_model(Path(root) / "large", 768, 12)),
            "server": lambda: server(small, plain, 10 if quick else 120),
            "memory": lambda: memory(scorer, 10_000 if quick else 100_000),
        }
        result: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
        for name, figure in figures.items():
            if not options.only or name in options.only:
                result[name] = figure()
                print(name, json.dumps(result[name]), file=sys.stderr)
    print(json.dumps(result, indent=2))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
