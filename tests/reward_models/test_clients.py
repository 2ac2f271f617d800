"""The clients that people have, as their authors ship them, against a real server."""

import pytest
from test_server import DOCUMENTS, QUERY, order, start

from reward_models.score import Scorer

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


@pytest.mark.parametrize("version", ["Client", "ClientV2"])
@pytest.mark.parametrize("base", ["", "/v1"])
def test_cohere(address, expected, version, base):
    cohere = pytest.importorskip("cohere")
    client = getattr(cohere, version)(api_key="any", base_url=address + base)
    answer = client.rerank(model="any", query=QUERY, documents=DOCUMENTS, top_n=2)
    assert [entry.index for entry in answer.results] == order(expected)[:2]
    assert answer.results[0].relevance_score == pytest.approx(expected[1].score, abs=1e-5)


@pytest.mark.parametrize(
    ("provider", "path"),
    [
        *(("cohere", path) for path in ("", "/v1", "/v2/rerank")),
        *(("hosted_vllm", path) for path in ("", "/v1", "/v1/rerank")),
        *(("infinity", path) for path in ("", "/v1", "/infinity")),
        *(("jina_ai", path) for path in ("", "/v1/rerank")),
        ("huggingface", ""),
    ],
)
@pytest.mark.parametrize("with_text", [True, False])
def test_litellm(address, expected, provider, path, with_text):
    litellm = pytest.importorskip("litellm")
    answer = litellm.rerank(
        model=f"{provider}/any", query=QUERY, documents=DOCUMENTS, top_n=3, api_base=address + path, api_key="any",
        return_documents=with_text,
    )  # fmt: skip
    assert [entry["index"] for entry in answer.results] == order(expected)
    assert answer.results[0]["relevance_score"] == pytest.approx(expected[1].score, abs=1e-5)
    if with_text:
        assert answer.results[0]["document"]["text"] == DOCUMENTS[1]
