"""Does it work on this GPU? One command, a few minutes; it runs and asserts, and prints what it measured as JSON.

    python benchmarks/gpu/run.py                 # at most eight minutes on one GPU of 40 GB or more
    python benchmarks/gpu/run.py --tiny          # the same on a CPU in a minute, with a model of no size

Two PPO steps with the shapes and settings of recipes/qwen2.5-math-1.5b (random weights) stay within the planned memory
in every phase; log-probabilities of sampler and trainer in bf16 are within 2e-2 of each other; a run stopped after a
step resumes to the weights of one that was not; memory does not grow over two rounds of sampling and fine-tuning; and
vLLM, where it is installed, samples with the log-probabilities of the trainer. Speeds and utilisation are printed, not
asserted. `against_peers.py` measures against other libraries.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from checks import Shapes, log_probabilities, ppo_in_plan, resume, rounds, vllm
from datasets import disable_progress_bars
from transformers.utils.logging import disable_progress_bar

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a model of no size, to see that everything runs")
    parser.add_argument("--out", type=Path, help="write the JSON there too")
    a = parser.parse_args()
    disable_progress_bar()
    disable_progress_bars()
    torch.manual_seed(0)
    shapes = Shapes.tiny() if a.tiny else Shapes.recipe()
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"}
    found["torch"], failed = torch.__version__, []
    with tempfile.TemporaryDirectory() as place:
        checks: dict[str, Callable[[], dict[str, Any]]] = {
            "ppo": lambda: ppo_in_plan(shapes, Path(place) / "ppo"),
            "log_probabilities": lambda: log_probabilities(shapes),
            "resume": lambda: resume(Path(place) / "resume"),
            "rounds": lambda: rounds(Path(place) / "rounds"),
        }
        if importlib.util.find_spec("vllm"):
            checks["vllm"] = lambda: vllm(shapes)
        else:
            found["vllm"] = "not installed"
        for name, check in checks.items():
            start = time.perf_counter()
            try:
                found[name] = check()
            except AssertionError as error:
                failed.append(f"{name}: {error}")
                found[name] = {"failed": str(error)}
            found[name]["seconds"] = round(time.perf_counter() - start, 1)
            print(json.dumps({name: found[name]}, indent=1), flush=True)
    if a.out:
        a.out.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(failed) if failed else f"all checks passed on {found['device']}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
