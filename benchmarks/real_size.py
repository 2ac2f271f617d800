"""Figures at the size that people train, each against the tool that it would be done with otherwise.

    OMP_NUM_THREADS=2 python benchmarks/real_size.py --model MODEL --data MATH.jsonl
    python benchmarks/real_size.py --model MODEL --data MATH.jsonl --rows sft --code /path/to/an/older/checkout
    python benchmarks/real_size.py --tiny             # the shipped base model, in seconds: does it run

MODEL is a folder or hub id stored in bfloat16 (such as Qwen2.5-Coder-0.5B-Instruct), the data rows with `problem` and
`solution`. `--dtype float32` is for processors without instructions for bfloat16. Both sides of a row get the same
texts, one after the other, each in a process of its own; rates are tokens a second by the clock and by the processor
(which other work on the machine changes less), the peak is memory beyond that of the imported libraries.

    sft       LoRA (rank 16), 4 sequences an update: `sft` stage | transformers + PEFT
    sampling  16 problems x 4 solutions at temperature 1: engine hf | `model.generate` | vLLM (E2H_VLLM_PYTHON)
    ppo       an iteration of 16 rollouts, LoRA: `train_ppo` | TRL 1.12.0's PPOTrainer (E2H_TRL_PYTHON)
    scoring   64 solutions, all steps: Scorer | the token-classification pipeline
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SIDES = {
    "sft": ("ours", "plain"),
    "sampling": ("ours", "generate", "vllm"),
    "ppo": ("ours", "trl"),
    "scoring": ("ours", "pipeline"),
}


def write_material(folder: Path, a: argparse.Namespace) -> None:
    """Texts for all sides, and the settings."""
    from transformers import AutoTokenizer

    from rlhf_e2h.data.procedural import make_problems
    from rlhf_e2h.prompts import SECTIONS

    if a.data:
        rows = [json.loads(line) for line in Path(a.data).read_text(encoding="utf-8").splitlines()[: 4 * a.problems]]
    else:
        rows = make_problems(dict.fromkeys(range(1, 6), a.problems), seed=11)[: 4 * a.problems]
    tokenizer = AutoTokenizer.from_pretrained(a.model)

    def prompt(problem: str) -> str:
        if not tokenizer.chat_template:
            return SECTIONS.prompt(problem)
        return str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": problem}], tokenize=False, add_generation_prompt=True
            )
        )

    rows = [row for row in rows if len(tokenizer(prompt(row["problem"]))["input_ids"]) < a.length // 2]
    texts = [{"prompt": prompt(row["problem"]), "completion": row["solution"]} for row in rows]
    solutions = [{"problem": row["problem"], "steps": _steps(row["solution"])} for row in rows]
    (folder / "rows.json").write_text(json.dumps(texts))
    (folder / "solutions.json").write_text(json.dumps(solutions[: a.solutions]))
    (folder / "settings.json").write_text(json.dumps({**vars(a), "tokenizer_end": tokenizer.eos_token_id}))


def _steps(solution: str) -> list[str]:
    """Sentences, as MATH's solutions have no blank lines."""
    parts = [part.strip() for part in solution.replace("\n\n", "\n").replace(". ", ".\n").split("\n")]
    return [part for part in parts if part] or [solution]


def run_side(a: argparse.Namespace, row: str, side: str, folder: Path, code: str | None) -> dict[str, Any] | None:
    python = sys.executable
    if side == "vllm":
        python = os.environ.get("E2H_VLLM_PYTHON", "")
    if side == "trl":
        python = os.environ.get("E2H_TRL_PYTHON", "")
    if not python:
        return None
    environment = {**os.environ, "PYTHONPATH": code or str(HERE.parent), "TOKENIZERS_PARALLELISM": "false"}
    script = HERE / ("peers/real_size_peers.py" if side in ("vllm", "trl") else "real_size_sides.py")
    done = subprocess.run(
        [python, str(script), row, side, str(folder)], env=environment, capture_output=True, text=True, check=False
    )
    found = [line[5:] for line in done.stdout.splitlines() if line.startswith("FOUND")]
    if not found:
        raise SystemExit(f"{row} {side} failed:\n{done.stderr[-3000:]}")
    return {"row": row, "side": side, **json.loads(found[-1])}


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: a line a side, with ours over it."""
    lines = ["| what | side | tokens a second | a processor second | peak, MiB | ours / it: rate, peak |", "|---|" * 1]
    lines[1] = "|---|---|---|---|---|---|"
    for one in found:
        ours = next(other for other in found if other["row"] == one["row"] and other["side"] == "ours")
        rates = [f"{one['tokens'] / one[clock]:.1f}" for clock in ("seconds", "cpu")]
        against = ""
        if one is not ours:
            rate = (ours["tokens"] / ours["cpu"]) / (one["tokens"] / one["cpu"])
            against = f"{rate:.2f}, {ours['peak_mib'] / max(one['peak_mib'], 1):.2f}"
        lines.append(f"| {one['row']} | {one['side']} | {' | '.join(rates)} | {one['peak_mib']:.0f} | {against} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HERE.parent / "rlhf_e2h" / "assets" / "base"))
    parser.add_argument("--data", help="JSON lines with problem and solution; without it, the shipped small problems")
    parser.add_argument("--rows", nargs="*", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--sides", nargs="*", help="only these of each row; default: all that can run here")
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--n", type=int, default=4, help="solutions a problem")
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--updates", type=int, default=6, help="of fine-tuning; the first is not counted")
    parser.add_argument("--length", type=int, default=256, help="tokens of a sequence in fine-tuning, at most")
    parser.add_argument("--rollouts", type=int, default=16, help="of a PPO iteration; a quarter of them a minibatch")
    parser.add_argument("--rollout-tokens", type=int, default=64, help="of a rollout, at most")
    parser.add_argument("--solutions", type=int, default=64, help="to score")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of both sides of each row"
    )
    parser.add_argument("--code", help="another checkout whose code is `ours`")
    parser.add_argument("--tiny", action="store_true", help="all rows on the shipped base model, small")
    parser.add_argument("--out", help="JSON file to write as well")
    a = parser.parse_args()
    if a.tiny:
        a.problems, a.n, a.new_tokens, a.updates, a.rollouts, a.rollout_tokens, a.solutions = 4, 2, 24, 3, 4, 16, 8
    found = []
    with tempfile.TemporaryDirectory() as name:
        write_material(Path(name), a)
        for row in a.rows:
            for side in SIDES[row]:
                if not a.sides or side in a.sides:
                    one = run_side(a, row, side, Path(name), a.code if side == "ours" else None)
                    if one is not None:
                        found.append(one)
                        print(json.dumps(one), file=sys.stderr, flush=True)
    print(table(found) if any(one["side"] == "ours" for one in found) else json.dumps(found, indent=1))
    if a.out:
        Path(a.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
