"""Scoring figures of `reward_models`, each side by side with what it replaces, in one run on one machine.

    python benchmarks/reward_scoring.py --out reward_scoring.json                    # ten minutes on a free core
    OMP_NUM_THREADS=1 python benchmarks/reward_scoring.py --clock cpu                # on a machine with other jobs
    python benchmarks/reward_scoring.py --quick                                      # a minute, for a look

Models are random (speed does not depend on what a model has learned). Both sides score the same texts and are timed in
turn; the figure is the median of the ratios. Where the other side gives logits, both must agree to 1e-4 before times
count (the pipeline's softmax over one label is 1 everywhere). Set OMP_NUM_THREADS to the cores you have to yourself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reward_material import Clock, make_model, ratios, solutions
from reward_memory import memory
from reward_server import server
from transformers import pipeline
from transformers.utils import logging as hf_logging

from reward_models.forward import last_parts
from reward_models.model import load_tokenizer
from reward_models.score import Scorer

PIPELINE_BATCHES = (1, 8, 32, 128)


def check_equal(ours: list[list[float]], theirs: list[list[float]]) -> None:
    """Both sides must have scored the same thing."""
    worst = max(abs(a - b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))
    if worst > 1e-4:
        raise SystemExit(f"the two sides differ by {worst}: the comparison is worth nothing")


def one_pass(scorer: Scorer, clock: Clock, count: int, repeats: int, problem_words: int) -> dict[str, Any]:
    """All steps in one pass against a pass for each step over the growing prefix, one by one as RLHFlow does.

    `token_ratio` is how many tokens the growing prefixes hold for each token of the whole: the speed-up of a machine
    on which a token costs the same on both sides.
    """
    steps = 8
    items = solutions(count, (steps, steps), 16, seed=1, problem_words=problem_words)
    contract, tokenizer, model = scorer.contract, scorer.tokenizer, scorer.model
    read = {"ours": 0, "theirs": 0}

    @torch.inference_mode()
    def per_step() -> list[list[float]]:
        found = []
        for problem, parts in items:
            logits = []
            for end in range(1, len(parts) + 1):
                text = contract.prompt(problem) + contract.separator.join(parts[:end])
                inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
                read["theirs"] += inputs["input_ids"].numel()
                logits.append(model(**inputs).logits[0, -1, 0].item())
            found.append(logits)
        return found

    check_equal([score.logits for score in scorer.score_stream(items)], per_step())
    read["ours"] = sum(score.tokens for score in scorer.score_stream(items))
    ratio = read["theirs"] / read["ours"]
    timed = clock.compare(lambda: list(scorer.score_stream(items)), per_step, repeats)
    return {"steps": steps, "solutions": count, "goal": 0.8 * steps, "token_ratio": ratio, **timed}


def against_pipeline(scorer: Scorer, clock: Clock, folder: Path, count: int, samples: int) -> dict[str, Any]:
    """Mixed lengths against the token-classification pipeline, its batch size tuned on a tenth of the solutions.

    `samples` solutions belong to each problem. The solutions are scored in four parts, each by both sides in turn.
    """
    items = solutions(count, (1, 12), 24, seed=2)
    items = [(items[place - place % samples][0], parts) for place, (_, parts) in enumerate(items)]
    contract = scorer.contract
    texts = [contract.prompt(problem) + contract.separator.join(parts) for problem, parts in items]
    pipe = pipeline(
        "token-classification", str(folder), tokenizer=load_tokenizer(folder), dtype=torch.float32, device="cpu"
    )

    def theirs(part: slice, batch: int) -> None:
        if len(list(pipe(texts[part], batch_size=batch))) != len(texts[part]):
            raise SystemExit("the pipeline lost texts")

    theirs(slice(0, 8), 1)
    list(scorer.score_stream(items[:8]))
    tenth = slice(0, count // 10)
    tuned = {batch: clock.of(partial(theirs, tenth, batch)) for batch in PIPELINE_BATCHES}
    best = min(tuned, key=lambda batch: tuned[batch])
    quarter = count // 4
    parts = [slice(start, start + quarter) for start in range(0, count, quarter)]
    pairs = [
        (clock.of(lambda part=part: list(scorer.score_stream(items[part]))), clock.of(partial(theirs, part, best)))
        for part in parts
    ]
    return {"goal": 2.0, "solutions": count, "samples_of_a_problem": samples, "pipeline_batch": best, **ratios(pairs)}


def prefix_reuse(scorer: Scorer, plain: Scorer, clock: Clock, share: float, repeats: int) -> dict[str, Any]:
    """64 samples of one problem whose text is `share` of the tokens."""
    items = solutions(64, (4, 4), 16, seed=3)
    solution_tokens = sum(len(scorer.tokenizer(" ".join(parts))["input_ids"]) for _, parts in items) / 64
    problem = solutions(1, (1, 1), 2, 4, int(solution_tokens * share / (1 - share)))[0][0]
    bodies = [parts for _, parts in items]
    ours, theirs = scorer.score(problem, bodies), plain.score(problem, bodies)
    check_equal([score.logits for score in ours], [score.logits for score in theirs])
    timed = clock.compare(lambda: scorer.score(problem, bodies), lambda: plain.score(problem, bodies), repeats)
    return {"goal": 1.3, "prompt_share": share, **timed}


def efficiency(folder: Path, clock: Clock, count: int, repeats: int) -> dict[str, Any]:
    """Share of the machine's own matrix-multiply rate that a forward pass in bf16 reaches.

    Counted are the products with weights that the scorer does carry out: of the last layer only those at scoring
    positions. Attention between tokens is time without credit.
    """
    scorer = Scorer.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
    parameters = sum(p.numel() for name, p in scorer.model.named_parameters() if "embed" not in name)
    items = solutions(count, (8, 8), 20, seed=5)
    scored = list(scorer.score_stream(items))
    tokens, reads = sum(score.tokens for score in scored), sum(len(score.steps) for score in scored)
    left_out = sum(p.numel() for part in last_parts(scorer.model) for p in part.parameters()) * (tokens - reads)
    work = 2 * (parameters * tokens - left_out)
    hidden = scorer.model.config.hidden_size
    left, right = (torch.randn(shape, dtype=torch.bfloat16) for shape in ((2048, hidden), (4 * hidden, hidden)))
    product = 2 * 2048 * 4 * hidden * hidden
    times = max(1, round(work / product))  # as many as the forward pass has arithmetic

    def multiply() -> None:
        for _ in range(times):
            torch.nn.functional.linear(left, right)

    timed = clock.compare(lambda: list(scorer.score_stream(items)), multiply, repeats)
    ideal = work / (times * product)
    return {
        "goal": 0.6,
        "efficiency": timed["speedup"] * ideal,
        "range": [value * ideal for value in timed["range"]],
        "repeats": repeats,
        "parameters_without_embeddings": parameters,
        "forward_gflops": work / timed["ours_s"] / 1e9,
        "matmul_gflops": times * product / timed["theirs_s"] / 1e9,
    }


def main() -> None:
    """Run all comparisons and print one JSON object."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", help="JSON file to write as well")
    arguments.add_argument("--quick", action="store_true", help="fewer solutions, a short server run")
    arguments.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: where other jobs are running")
    arguments.add_argument("--only", nargs="*", help="names of figures")
    options = arguments.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    if options.clock == "cpu" and torch.get_num_threads() > 1:
        raise SystemExit("--clock cpu adds up the time of all threads; set OMP_NUM_THREADS=1")
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    quick, clock = options.quick, Clock(options.clock)
    repeats, few, many = (2, 10, 200) if quick else (5, 40, 2000)
    with tempfile.TemporaryDirectory() as root:
        small = make_model(Path(root) / "small", 128, 4)
        scorer, plain = (Scorer.from_pretrained(small, device="cpu", prefix_reuse=reuse) for reuse in (True, False))
        figures: dict[str, Callable[[], dict[str, Any]]] = {
            "one_pass": lambda: one_pass(scorer, clock, few, repeats, 20),
            "one_pass_long_prompt": lambda: one_pass(scorer, clock, few, repeats, 200),
            "pipeline": lambda: against_pipeline(scorer, clock, small, many, 1),
            "pipeline_16_samples": lambda: against_pipeline(scorer, clock, small, many, 16),
            "prefix_half": lambda: prefix_reuse(scorer, plain, clock, 0.5, repeats),
            "prefix_three_quarters": lambda: prefix_reuse(scorer, plain, clock, 0.75, repeats),
            "efficiency": lambda: efficiency(make_model(Path(root) / "large", 768, 12), clock, 8, repeats),
            "server": lambda: server(small, scorer, clock, 10 if quick else 120),
            "memory": lambda: memory(make_model(Path(root) / "tiny", 32, 1), 10_000 if quick else 100_000),
        }
        unknown = set(options.only or []) - set(figures)
        if unknown:
            raise SystemExit(f"--only {sorted(unknown)[0]}: no such figure; choose from {', '.join(figures)}")
        result: dict[str, Any] = {"clock": options.clock, "threads": torch.get_num_threads()}
        for name, figure in figures.items():
            if not options.only or name in options.only:
                result[name] = figure()
                print(name, json.dumps(result[name]), file=sys.stderr, flush=True)
    print(json.dumps(result, indent=2))
    if options.out:
        Path(options.out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
