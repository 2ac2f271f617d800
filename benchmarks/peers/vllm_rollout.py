"""vLLM as a sampler, for `benchmarks/rollout.py`; runs in an environment of its own, engine and all in this process.

PYTHON vllm_rollout.py FOLDER     # FOLDER holds policy/, prompts.json and settings.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
ANSWERS = os.fdopen(os.dup(1), "w")  # vLLM prints to standard output
os.dup2(2, 1)

from vllm import LLM, SamplingParams  # noqa: E402 - reads what is set above


def answer(row: dict[str, Any]) -> None:
    print(json.dumps(row), file=ANSWERS, flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    s = json.loads((folder / "settings.json").read_text())
    prompts = json.loads((folder / "prompts.json").read_text())
    llm = LLM(
        model=str(folder / "policy"),
        max_model_len=s["context"],
        enforce_eager=not s["cuda"],
        dtype=s["dtype"],
        max_num_seqs=s["batch"],
        logprobs_mode="processed_logprobs",
    )
    parameters = SamplingParams(
        n=s["n"], temperature=1.0, max_tokens=s["max_new_tokens"], logprobs=0, seed=None, ignore_eos=s["full"]
    )
    answer({"ready": True})
    while sys.stdin.readline().strip():
        llm.reset_prefix_cache()
        start, cpu = time.perf_counter(), time.process_time()
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], parameters, use_tqdm=False)
        tokens = sum(len(one.token_ids) for output in outputs for one in output.outputs)
        answer({"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "tokens": tokens})


main()
