"""A real server in its own process, a real client over a socket."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from reward_models.__main__ import run
from reward_models.contract import StepContract
from reward_models.model import checkpoint_name
from reward_models.options import parser
from reward_models.score import Scorer
from reward_models.serving.request import BadRequestError
from reward_models.serving.score import get_reward

KEY = "secret-key"
DOCUMENTS = ["bad step.\n\nbad step.", "good step.\n\ngood step.", "good step.\n\nbad step."]
QUERY = "What is 3?"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(model, *options):
    port = free_port()
    command = [sys.executable, "-m", "reward_models", "serve", str(model), "--port", str(port), *options]
    environment = {**os.environ, "REWARD_KEY": KEY, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)
    for _ in range(6000):
        try:
            if client.get("/health").status_code == 200:
                return process, client
        except httpx.TransportError:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
    raise AssertionError("the server did not start in ten minutes")


@pytest.fixture(scope="module")
def server(prm):
    options = [
        "--api-key-env",
        "REWARD_KEY",
        "--max-body-bytes",
        "100000",
        "--max-documents",
        "64",
        "--max-queue",
        "256",
    ]
    process, client = start(prm[0], *options)
    client.headers["Authorization"] = f"Bearer {KEY}"
    yield client
    client.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def expected(prm):
    scorer = Scorer.from_pretrained(prm[0])
    return scorer.score(QUERY, [document.split("\n\n") for document in DOCUMENTS])


def order(expected):
    return sorted(range(3), key=lambda index: -expected[index].score)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank", "/v1/v2/rerank"])
def test_cohere_jina_vllm(server, expected, path):
    body = {"model": "any", "query": QUERY, "documents": DOCUMENTS, "top_n": 2}
    answer = server.post(path, json=body).json()
    assert [entry["index"] for entry in answer["results"]] == order(expected)[:2]
    best = answer["results"][0]
    assert best["relevance_score"] == pytest.approx(expected[1].score, abs=1e-5)
    assert best["document"] == {"text": DOCUMENTS[1]}
    assert best["step_scores"] == pytest.approx(expected[1].steps, abs=1e-5)
    assert answer["usage"]["total_tokens"] == sum(score.tokens for score in expected)
    bare = server.post(path, json={**body, "return_documents": False}).json()["results"][0]
    assert "document" not in bare


def test_text_embeddings_inference(server, expected):
    answer = server.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "return_text": True}).json()
    assert [entry["index"] for entry in answer] == order(expected)
    assert answer[0]["score"] == pytest.approx(expected[1].score, abs=1e-5) and answer[0]["text"] == DOCUMENTS[1]
    raw = server.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json()
    assert raw[0]["score"] == pytest.approx(min(expected[1].logits), abs=1e-3)


def test_text_embeddings_inference_truncates_on_request(server):
    """The problem is cut, never a step; a solution that is too long alone is refused all the same."""
    body = {"query": "What? " * 500, "texts": DOCUMENTS}
    refused = server.post("/rerank", json=body)
    assert refused.status_code == 422 and "the limit is 512" in refused.json()["error"]
    answer = server.post("/rerank", json={**body, "truncate": True})
    assert answer.status_code == 200 and sorted(len(entry["step_scores"]) for entry in answer.json()) == [2, 2, 2]
    alone = server.post("/rerank", json={"query": "q", "texts": ["good step. " * 400], "truncate": True})
    assert alone.status_code == 422 and "the solution alone is longer" in alone.json()["error"]


def test_vllm_score(server, expected):
    answer = server.post("/score", json={"model": "m", "text_1": QUERY, "text_2": DOCUMENTS}).json()
    assert [entry["score"] for entry in answer["data"]] == pytest.approx([s.score for s in expected], abs=1e-5)
    pairs = server.post("/v1/score", json={"text_1": [QUERY, QUERY], "text_2": DOCUMENTS[:2]}).json()
    assert [entry["index"] for entry in pairs["data"]] == [0, 1]
    current = server.post("/score", json={"data_1": QUERY, "data_2": DOCUMENTS}).json()
    assert current["data"] == answer["data"]
    one = server.post("/score", json={"queries": QUERY, "documents": DOCUMENTS[0]}).json()
    assert one["data"][0]["score"] == pytest.approx(expected[0].score, abs=1e-5)


def test_what_clients_ask_before_they_score(server, prm):
    listed = server.get("/v1/models").json()
    assert [entry["id"] for entry in listed["data"]] == [prm[0].name] and listed["data"][0]["max_model_len"] == 512
    about = server.get("/info").json()
    assert (about["model_id"], about["max_input_length"], about["model_dtype"]) == (prm[0].name, 512, "float32")
    assert "reranker" in about["model_type"]
    assert "/v1/rerank" in server.get("/openapi.json").json()["paths"]
    assert server.get("/docs").status_code == 200


def test_a_checkpoint_in_a_folder_named_by_a_hash_has_the_name_around_it(tmp_path):
    (tmp_path / "prm/75103d172ea8").mkdir(parents=True)
    assert checkpoint_name(tmp_path / "prm/75103d172ea8") == checkpoint_name(tmp_path / "prm") == "prm"
    assert checkpoint_name("Qwen/Qwen2.5-Math-PRM-7B") == "Qwen2.5-Math-PRM-7B"


def test_openrlhf_counts_texts_that_look_unsplit():
    """A refusal would end the training that asks."""
    contract, before = StepContract("prm"), "# Question\n\nq\n\n# Solution\n\n"
    request = get_reward({"query": [before + "a\nb\nc", before + "a\r\n\r\nb"]}, contract, [])
    assert request.unsplit == 1 and request.items == [("q", ["a\nb\nc"]), ("q", ["a", "b"])]
    assert get_reward({"query": [before + "a\nb\nc"]}, StepContract("orm"), []).unsplit == 0


def test_openrlhf_get_reward(server, expected):
    texts = [f"<s># Question\n\n{QUERY}\n\n# Solution\n\n{document}</s>" for document in DOCUMENTS]
    prompts = [f"<s># Question\n\n{QUERY}\n\n# Solution\n\n"] * 3
    for body in ({"query": texts}, {"query": texts, "prompts": prompts}):
        answer = server.post("/get_reward", json=body).json()
        assert answer["rewards"] == answer["scores"] == pytest.approx([s.score for s in expected], abs=1e-5)
        assert answer["step_scores"][1] == pytest.approx(expected[1].steps, abs=1e-5)


def test_get_reward_with_a_prompt_of_another_form():
    """The prompt's text becomes the problem as it stands when it does not follow the contract's template."""
    request = get_reward({"query": ["Q: 1?\nA: x\n\ny"], "prompts": ["Q: 1?\nA: "]}, StepContract("prm"), [])
    assert request.items == [("Q: 1?\nA: ", ["x", "y"])]
    with pytest.raises(BadRequestError, match="query 0 does not have the form"):
        get_reward({"query": ["hello"]}, StepContract("prm"), [])


@pytest.mark.parametrize(
    ("content", "status", "sentence"),
    [
        (b"{not json", 400, "not JSON"),
        (b'{"query": "\xff"}', 400, "not UTF-8"),
        (b"[1, 2]", 422, "JSON object"),
        (b'{"query": "q"}', 422, "'documents' must be a list"),
        (b'{"query": "q", "documents": []}', 422, "at least one"),
        (b'{"query": "q", "documents": ["good step.", " "]}', 422, r"documents[1] is empty"),
        (b'{"query": "q", "documents": ["a\\nb\\nc", "d\\ne\\nf\\ng"]}', 422, "none holds the step separator"),
        # one document that has a blank line says nothing about the others
        (
            b'{"query": "q", "documents": ["n=1\\n\\n# Answer\\n\\n1", "a\\nb\\nc"]}',
            422,
            "document 1 has several lines",
        ),
        (b'{"query": "q", "documents": ["a", 7]}', 422, r"documents[1] must be a text"),
        (b'{"query": 5, "documents": ["a"]}', 422, "'query' must be a text"),
        (b'{"query": "q", "documents": ["a"], "top_n": -1}', 422, "top_n"),
        (b'{"query": "\\ud800", "documents": ["a"]}', 422, "surrogate"),
        (b'{"query": "q", "documents": [' + b'"a",' * 64 + b'"a"]}', 422, "65 documents"),
        (json.dumps({"query": "q", "documents": ["good step. " * 400]}).encode(), 422, "the limit is 512"),
        (b'{"query": "q", "documents": ["' + b"a" * 200_000 + b'"]}', 413, "larger than 100000 bytes"),
        (b"[" * 50_000, 400, "not JSON"),
    ],
)
def test_bad_bodies_get_a_sentence_and_the_server_lives_on(server, content, status, sentence):
    answer = server.post("/v1/rerank", content=content)
    assert answer.status_code == status
    assert sentence in answer.json()["error"]
    assert server.get("/health").json()["status"] == "ok"


def test_ten_megabytes_are_refused_without_being_kept(server):
    answer = server.post("/v1/rerank", content=(b"a" * 65536 for _ in range(160)))  # chunked, no length header
    assert answer.status_code == 413


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic c2VjcmV0", "Bearer sécre", "Bearer \xff"])
def test_wrong_keys(server, header):
    headers = {} if header is None else {"Authorization": header.encode("latin-1" if "\xff" in header else "utf-8")}
    answer = httpx.post(f"{server.base_url}/v1/rerank", json={}, headers=headers, trust_env=False)
    assert answer.status_code == 401 and "Authorization: Bearer" in answer.json()["error"]


def test_unknown_paths_and_methods(server):
    assert server.post("/nothing", json={}).status_code == 404
    assert server.get("/v1/rerank").status_code == 405


def test_parallel_clients_get_their_own_answers(server, prm):
    scorer = Scorer.from_pretrained(prm[0])
    bodies = [{"query": f"What is {n}?", "documents": DOCUMENTS[: 1 + n % 3]} for n in range(48)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda body: server.post("/v1/rerank", json=body).json(), bodies))
    for body, answer in zip(bodies, answers, strict=True):
        wanted = scorer.score(body["query"], [document.split("\n\n") for document in body["documents"]])
        by_index = {entry["index"]: entry["relevance_score"] for entry in answer["results"]}
        assert [by_index[index] for index in range(len(wanted))] == pytest.approx([w.score for w in wanted], abs=1e-5)


def test_client_that_disconnects_does_no_harm(server):
    address = (server.base_url.host, server.base_url.port)
    whole = json.dumps({"query": "q", "documents": ["good step. " * 150] * 40}).encode()
    for tail, length in (
        (b"", 500),
        (b'{"query": "q", "docu', 500),
        (whole, len(whole)),
    ):  # the last while it is scored
        with socket.create_connection(address) as raw:
            raw.sendall(b"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode())
            raw.sendall(b"\r\nContent-Length: %d\r\n\r\n" % length + tail)
            time.sleep(0.05)
    assert server.post("/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}).status_code == 200
    assert server.get("/health").status_code == 200


def test_metrics_count(server):
    text = server.get("/metrics").text
    assert 'reward_requests_total{path="/v1/rerank",status="200"}' in text
    assert "reward_solutions_total" in text and "reward_request_seconds_bucket" in text


def post_in_threads(client, body, count, statuses):
    def post():
        with httpx.Client(timeout=120, trust_env=False) as own:
            statuses.append(own.post(f"{client.base_url}/v1/rerank", json=body).status_code)

    threads = [threading.Thread(target=post) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def test_full_queue_answers_429_and_shutdown_answers_what_was_accepted(prm):
    process, client = start(prm[0], "--max-queue", "100")
    body = {"query": QUERY, "documents": ["good step. " * 150] * 40}
    refused: list[int] = []
    for thread in post_in_threads(client, body, 12, refused):
        thread.join()
    assert set(refused) == {200, 429}
    for _ in range(20):  # until one request is being scored while the other waits, so that both are accepted
        accepted: list[int] = []
        threads = post_in_threads(client, body, 1, accepted)
        queued = False
        while not accepted:
            waiting = client.get("/health").json()["waiting"]
            if queued and waiting < 40:
                break
            queued = queued or waiting == 40
        threads += post_in_threads(client, body, 1, accepted)
        while (waiting := client.get("/health").json()["waiting"]) < 40 and len(accepted) < 2:
            pass
        if waiting == 40:
            break
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    client.close()
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    assert waiting == 40 and accepted == [200, 200]
    assert "Traceback" not in process.stderr.read()


def test_binds_to_loopback_and_needs_its_key_variable(capsys):
    assert run(["serve", "model", "--api-key-env", "NO_SUCH_VARIABLE"]) == 1
    assert "NO_SUCH_VARIABLE: that environment variable is empty" in capsys.readouterr().err
    assert parser().parse_args(["serve", "m"]).host == "127.0.0.1"
