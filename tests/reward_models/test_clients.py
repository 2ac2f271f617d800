"""The clients that people have, as their authors ship them, against a real server."""

import os

import httpx
import pytest
from test_server import DOCUMENTS, QUERY, order, start

from reward_models.contract import StepContract
from reward_models.score import Scorer
from reward_models.serving.request import BadRequestError
from reward_models.serving.routes import routes

WHOLE = [f"# Question\n\n{QUERY}\n\n# Solution\n\n{document}" for document in DOCUMENTS]


@pytest.fixture(scope="module")
def address(prm):
    process, client = start(prm[0])
    yield str(client.base_url).rstrip("/")
    client.close()
    process.terminate()
    process.wait(timeout=60)


@pytest.fixture(scope="module")
def expected(prm):
    return Scorer.from_pretrained(prm[0]).score(QUERY, [document.split("\n\n") for document in DOCUMENTS])


@pytest.fixture(scope="module")
def litellm():
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices when it is imported
    return pytest.importorskip("litellm")


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
@pytest.mark.parametrize("path", ["", "/v1"])
def test_cohere(address, expected, version, path):
    cohere = pytest.importorskip("cohere")
    client = getattr(cohere, version)(api_key="any", base_url=address + path)
    answer = client.rerank(model="any", query=QUERY, documents=DOCUMENTS, top_n=2)
    assert [entry.index for entry in answer.results] == order(expected)[:2]
    assert answer.results[0].relevance_score == pytest.approx(expected[1].score, abs=1e-5)


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        *(("cohere", path) for path in ("", "/v1", "/v2/rerank")),
        *(("hosted_vllm", path) for path in ("", "/v1", "/v1/rerank")),
        *(("infinity", path) for path in ("/infinity", "/infinity/v1")),
        *(("jina_ai", path) for path in ("", "/v1/rerank")),
        ("huggingface", ""),
    ],
)
@pytest.mark.parametrize("with_text", [True, False])
def test_litellm(litellm, address, expected, provider, path, with_text):
    answer = litellm.rerank(
        model=f"{provider}/any", query=QUERY, documents=DOCUMENTS, top_n=3, api_base=address + path, api_key="any",
        return_documents=with_text,
    )  # fmt: skip
    assert [entry["index"] for entry in answer.results] == order(expected)
    assert answer.results[0]["relevance_score"] == pytest.approx(expected[1].score, abs=1e-5)
    if with_text:
        assert answer.results[0]["document"]["text"] == DOCUMENTS[1]
    if provider in ("hosted_vllm", "infinity"):
        assert answer.meta["tokens"]["input_tokens"] == sum(score.tokens for score in expected)


def test_infinity_without_documents_at_the_plain_address(litellm, address, expected):
    answer = litellm.rerank(
        model="infinity/any", query=QUERY, documents=DOCUMENTS, api_base=address, api_key="any", return_documents=False
    )
    assert [entry["index"] for entry in answer.results] == order(expected)


# What follows has no client on the package index: the fields are those of the servers' sources (vLLM's
# entrypoints/pooling, Text Embeddings Inference's router/src/http/types.rs).


def post(address, path, body):
    answer = httpx.post(address + path, json=body, timeout=120, trust_env=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ["/classify", "/v1/classify"])
def test_vllm_classify(address, expected, path):
    answer = post(address, path, {"model": "any", "input": WHOLE})
    assert [entry["index"] for entry in answer["data"]] == [0, 1, 2] and answer["object"] == "list"
    assert {(entry["label"], entry["num_classes"]) for entry in answer["data"]} == {("score", 1)}
    assert [entry["probs"] for entry in answer["data"]] == [
        [pytest.approx(score.score, abs=1e-5)] for score in expected
    ]
    assert answer["usage"]["prompt_tokens"] == sum(score.tokens for score in expected)
    turns = [{"role": "user", "content": QUERY}, {"role": "assistant", "content": DOCUMENTS[1]}]
    (talk,) = post(address, path, {"messages": turns, "use_activation": False})["data"]
    assert talk["probs"] == [pytest.approx(min(expected[1].logits), abs=1e-3)]


def test_vllm_pooling_gives_a_row_a_step(address, expected):
    answer = post(address, "/pooling", {"model": "any", "input": WHOLE})
    assert [entry["object"] for entry in answer["data"]] == ["pooling"] * 3
    for entry, score in zip(answer["data"], expected, strict=True):
        assert entry["data"] == [[pytest.approx(step, abs=1e-5)] for step in score.steps]
    whole = post(address, "/pooling", {"input": WHOLE[2], "task": "classify"})
    assert whole["data"][0]["data"] == [pytest.approx(expected[2].score, abs=1e-5)]


@pytest.mark.parametrize("names", [("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
def test_vllm_score_names(address, expected, names):
    answer = post(address, "/score", dict(zip(names, [QUERY, DOCUMENTS], strict=True)))
    assert [entry["score"] for entry in answer["data"]] == pytest.approx([score.score for score in expected], abs=1e-5)


def test_tei_predict(address, expected):
    (one,) = post(address, "/predict", {"inputs": [QUERY, DOCUMENTS[1]]})
    assert one["score"] == pytest.approx(expected[1].score, abs=1e-5) and one["label"] == "score"
    many = post(address, "/predict", {"inputs": [[QUERY, DOCUMENTS[0]], [WHOLE[1]]]})
    assert [row[0]["score"] for row in many] == pytest.approx([expected[0].score, expected[1].score], abs=1e-5)
    (raw,) = post(address, "/predict", {"inputs": WHOLE[1], "raw_scores": True})
    assert raw["score"] == pytest.approx(min(expected[1].logits), abs=1e-3)


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/classify", {"input": "hello"}, "input 0 does not have the form"),
        ("/classify", {}, "'input' must be a list of at least one text"),
        ("/classify", {"messages": [{"role": "user", "content": "q"}]}, "'messages' must end with the solution"),
        ("/classify", {"messages": "hello"}, "expected a list of messages"),
        ("/pooling", {"input": WHOLE[0], "task": "embed"}, "'task' must be 'token_classify'"),
        ("/pooling", {"input": WHOLE[0], "encoding_format": "base64"}, "'encoding_format' must be 'float'"),
        ("/score", {"items": ["a"]}, "'queries' must be a list"),
        ("/predict", {"inputs": ["a", "b", "c"]}, "inputs 0 has 3 texts"),
        ("/predict", {"inputs": 5}, "'inputs' must be a text"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(path, body, sentence):
    with pytest.raises(BadRequestError) as refused:
        routes(StepContract("prm"), "m", [])[path](body)
    assert sentence in str(refused.value)
