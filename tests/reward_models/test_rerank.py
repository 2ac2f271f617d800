import pytest

from reward_models import Reranker
from reward_models.contract import StepContract
from reward_models.readout import split_steps


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a\n\nb\n\n# Answer\n\n5", ["a", "b", "# Answer\n\n5"]),
        ("# Answer\n\n5", ["# Answer\n\n5"]),
        ("a\n\n\n\nb", ["a", "", "b"]),
        ("a # Answer\n\n5", ["a # Answer", "5"]),
        ("", [""]),
    ],
)
def test_split_steps(text, steps):
    contract = StepContract("prm")
    assert split_steps(contract, text) == steps
    assert contract.separator.join(steps) == text


def test_rank_orders_and_names_documents(prm):
    reranker = Reranker.from_pretrained(prm[0])
    documents = ["bad step.\n\nbad step.", "good step.\n\ngood step.", "good step.\n\nbad step."]
    ranked = reranker.rank("What is 3?", documents)
    assert ranked[0]["corpus_id"] == 1 and ranked[0]["text"] == documents[1]
    assert [entry["score"] for entry in ranked] == sorted((entry["score"] for entry in ranked), reverse=True)
    assert len(ranked[0]["step_scores"]) == 2
    top = reranker.rank("What is 3?", documents, top_k=1, return_documents=False)
    assert [entry["corpus_id"] for entry in top] == [1] and "text" not in top[0]
    scores = reranker.predict([("What is 3?", document) for document in documents])
    assert scores[1] == pytest.approx(ranked[0]["score"], abs=1e-6)


def test_rank_refuses_steps_joined_by_another_separator(prm):
    reranker = Reranker.from_pretrained(prm[0])
    with pytest.raises(ValueError, match=r"document 0 has several lines, but none holds the step separator '\\n\\n'"):
        reranker.rank("q", ["good step.\ngood step.\nbad step."])
    # a document that has it says nothing about the others
    with pytest.raises(ValueError, match="document 1"):
        reranker.rank("q", ["good step.\n\nbad step.", "good step.\ngood step.\nbad step."])
    assert len(reranker.rank("q", ["good step.\nbad step.", "good step."])) == 2  # one or two lines may be one step


def test_newlines_of_windows_change_no_score(prm):
    reranker = Reranker.from_pretrained(prm[0])
    unix = "good step.\n\nbad step.\n\n# Answer\n\n5"
    ours, windows = reranker.score_pairs([("What\nis 3?", unix), ("What\r\nis 3?", unix.replace("\n", "\r\n"))])
    assert len(windows.steps) == 3 and windows.logits == ours.logits


def test_rank_refuses_empty_documents(prm):
    reranker = Reranker.from_pretrained(prm[0])
    with pytest.raises(ValueError, match="document 1 is empty"):
        reranker.rank("q", ["good step.", "  "])
    with pytest.raises(ValueError, match="top_k is 0"):
        reranker.rank("q", ["good step."], top_k=0)
    assert reranker.rank("q", []) == []
