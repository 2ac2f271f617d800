"""Mutated strings against the checker: no crash, no hang, whatever a model may write."""

from __future__ import annotations

import random
import time
from collections import Counter

from rlhf_e2h.checker import CheckerPool


def fuzz(texts: list[str], count: int, seed: int = 0) -> list[str]:
    """Mutated answers against their originals: every verdict, the slowest, workers lost."""
    rng = random.Random(seed)
    alphabet = [*r"0123456789+-*/^_=<>(){}[]|\,.;:!'&% xyiefn", r"\frac", r"\sqrt", r"\pm", r"\cup", r"\text{", "**"]
    alphabet += [
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\infty",
        r"\le",
        r"\sin ",
        "999999",
        "^{",
        "∞",
        "π",
        "\x00",
        "é",
    ]
    reasons: Counter[str] = Counter()
    slowest: list[tuple[float, str, str]] = []
    pids: set[int] = set()
    began = time.perf_counter()
    with CheckerPool() as pool:
        for _ in range(count):
            gold = rng.choice(texts)
            mutated = _mutate(gold, rng, alphabet)
            started = time.perf_counter()
            reasons[pool.check([(gold, mutated)])[0].reason] += 1
            pids.update(pool.worker_pids())
            slowest = sorted([*slowest, (time.perf_counter() - started, gold, mutated)], reverse=True)[:3]
    total = time.perf_counter() - began
    lines = [f"{count} mutated strings in {total:.0f} s; verdicts: {dict(reasons.most_common())};"]
    lines.append(f"workers lost other than by the clock: {len(pids) - 1 - reasons['timeout']}")
    return lines + [f"- {seconds:.2f} s: gold `{gold}`, answer `{answer!r}`" for seconds, gold, answer in slowest]


def _mutate(text: str, rng: random.Random, alphabet: list[str]) -> str:
    for _ in range(rng.randint(1, 6)):
        place, other = rng.randint(0, len(text)), rng.randint(0, len(text))
        low, high = sorted((place, other))
        text = rng.choice(
            [
                text[:place] + rng.choice(alphabet) + text[place:],
                text[:place] + text[place + 1 :],
                text[:low] + text[high:],
                text[:high] + text[low:high] + text[high:],
                text[:place] + rng.choice(alphabet) * rng.randint(2, 40) + text[place:],
            ]
        )
    return text
