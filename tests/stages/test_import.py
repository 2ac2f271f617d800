"""Samples of other generators become a sample bank with which grade and reward training continue."""

from __future__ import annotations

import json

import datasets
import pytest

from reward_models.files import BadRecord
from reward_models.records import read_jsonl
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.generations import Finder, Generation, read_generations, read_requests
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import read_done
from rlhf_e2h.text_formats import read_format

PROBLEM = "How many legs have three cats and a stool of four legs?"
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
REPLY = {"role": "assistant", "content": "It is \\boxed{16}."}
TEXT = REPLY["content"]


def read(*rows, requests=None):
    failed: list[str] = []
    found = list(read_generations([Row(f"f:{i}", row) for i, row in enumerate(rows, 1)], requests or {}, failed))
    return found, failed


@pytest.mark.parametrize(
    ("row", "texts", "finished"),
    [
        ({"problem_id": "p", "text": TEXT}, [TEXT], None),
        ({"problem": PROBLEM, "text": TEXT, "finished": False}, [TEXT], False),
        ({"question": PROBLEM, "outputs": [TEXT, "b"]}, [TEXT, "b"], None),
        ({"prompt": PROBLEM, "outputs": [{"text": TEXT}, {"text": "b"}]}, [TEXT, "b"], None),  # vLLM
        ({"messages": [*ASKED, REPLY], "finish_reason": "stop"}, [TEXT], True),
        ({"conversations": [{"from": "human", "value": PROBLEM}, {"from": "gpt", "value": TEXT}]}, [TEXT], None),
        ({"prompt": ASKED, "completion": [REPLY]}, [TEXT], None),
        ({"prompt": ASKED, "completions": [REPLY], "finish_reason": "length"}, [TEXT], False),
        (
            {"doc_id": 3, "doc": {"problem": PROBLEM, "answer": "16"}, "target": "16", "resps": [[TEXT], ["b"]]},
            [TEXT, "b"],
            None,
        ),
    ],
)
def test_shapes_of_other_generators(row, texts, finished):
    found, _ = read(row)
    assert [(g.text, g.finished) for g in found] == [(text, finished) for text in texts]
    finder = Finder({"p"}, {"".join(PROBLEM.split()).casefold(): "p"})
    assert {finder.find(g) for g in found} == {"p"}
    if "messages" in row:
        assert found[0].system == "Be brief."


def test_openai_batch():
    def answered(name, *choices, **changes):
        return {
            "custom_id": name,
            "response": {"status_code": 200, "body": {"choices": list(choices)}},
            "error": None,
        } | changes

    stop = {"index": 0, "message": REPLY, "finish_reason": "stop"}
    cut = {"index": 1, "message": {"role": "assistant", "content": "I"}, "finish_reason": "length"}
    requests = read_requests([Row("r:1", {"custom_id": "request-1", "body": {"model": "m", "messages": ASKED}})])
    found, failed = read(
        answered("request-1", stop, cut),
        answered("request-2", error={"message": "expired"}, response=None),
        answered("request-3", response={"status_code": 500, "body": {}}),
        requests=requests,
    )
    assert [(g.problem, g.text, g.finished) for g in found] == [(PROBLEM, TEXT, True), (PROBLEM, "I", False)]
    assert len(failed) == 2 and failed[0] == "f:2 (request-2)"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "f:1: nothing names the problem; give problem_id, problem or messages"),
        ({"problem_id": "p"}, "f:1: no text of a solution; give one of text, completion"),
        ({"problem_id": "p", "text": 5}, "f:1: a solution is 5; give text"),
        ({"problem_id": "p", "outputs": [None]}, "f:1: a solution is None"),
        ({"messages": "a", "text": "b"}, "f:1: nothing names the problem"),
        ({"doc": {"problem": "p"}, "resps": [[[-1.2, True]]]}, "f:1: resps hold .* only tasks that generate text"),
    ],
)
def test_flawed_rows_are_sentences(row, message):
    with pytest.raises(BadRecord, match=message):
        read(row)


def test_problems_are_found_inside_prompts():
    problems = [{"problem_id": "a", "problem": PROBLEM}, {"problem_id": "b", "problem": "What is the sum of 3 and 4?"}]
    finder = Finder.of(problems)
    few_shot = f"Q: What is the sum of 3 and 4?\nA: 7\n\nQ: {PROBLEM}\nReason step by step."
    chat = f"<|im_start|>user\n{PROBLEM.upper()}<|im_end|>\n<|im_start|>assistant\n"
    for text in (few_shot, chat, f"  {PROBLEM}\n"):
        assert finder.find(Generation("f:1", "", "0", text)) == "a"
    assert finder.find(Generation("f:1", "", "b", "")) == "b"
    assert finder.find(Generation("f:1", "", "7", "Something else")) is None


@pytest.fixture
def recipe(tmp_path):
    """Twelve easy problems, each with a right and a wrong sample in chat form, in a `save_to_disk` folder."""
    problems = [{"problem": f"What is {n} plus {n} ({n * 7919})?", "answer": 2 * n, "level": 1} for n in range(10, 22)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    (tmp_path / "test.jsonl").write_text(json.dumps({"problem": "Q?", "answer": "1", "level": 5}) + "\n")
    rows = [
        {"messages": [{"role": "user", "content": f"{p['problem']} Box it."}, {"role": "assistant", "content": f"Add.\r\n\r\nSo \\boxed{{{a}}}."}], "answer": "1"}  # noqa: E501
        for p in problems for a in (p["answer"], 7)
    ]  # fmt: skip
    rows += [{**rows[0], "messages": [{"role": "user", "content": "Unknown"}, {"role": "assistant", "content": "x"}]}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "samples")
    files = {
        "recipe.yaml": f"name: own\nruns: {tmp_path}/runs\n",
        "0_pretrain.yaml": "stage: pretrain\nshape: {hidden: 8, layers: 1, intermediate: 8, heads: 1}\ntraining: {max_steps: 0}\n",  # noqa: E501
        "1_prepare.yaml": f"stage: prepare\nsource: jsonl\ntrain: {tmp_path}/train.jsonl\ntest: {tmp_path}/test.jsonl\n",  # noqa: E501
        "2_bank.yaml": f'stage: import\ndata: "@prepare"\nsamples: {tmp_path}/samples\n',
        "3_grade.yaml": 'stage: grade\nsamples: "@bank"\ndata: "@prepare"\n',
        "4_orm.yaml": 'stage: reward\nkind: orm\nbase: "@pretrain"\ndata: "@prepare"\ngraded: "@grade"\nheld_out: 0.3\n',  # noqa: E501
        "5_rerank.yaml": 'stage: rerank\nsamples: "@bank"\ndata: "@prepare"\nreward_models: {orm: "@orm"}\n',
    }
    (tmp_path / "recipe").mkdir()
    for name, text in files.items():
        (tmp_path / "recipe" / name).write_text(text)
    return tmp_path / "recipe"


def test_import_goes_through_grade_reward_and_rerank(recipe, tmp_path):
    run_recipe(load_recipe(recipe))
    folders = {name: next((tmp_path / "runs" / name).iterdir()) for name in ("bank", "grade", "orm", "rerank")}
    bank = read_jsonl(folders["bank"] / "samples.jsonl")
    assert len(bank) == 24 and set(bank[0]) == {"problem_id", "sample_id", "text", "answer", "finished"}
    assert bank[0]["text"] == "Add.\n\nSo \\boxed{20}." and bank[0]["answer"] == "20"
    assert read_format(folders["bank"]).split_steps(bank[0]["text"]) == ["Add.", "So \\boxed{20}."]
    results = {name: read_done(folder)["results"] for name, folder in folders.items()}
    assert (results["bank"]["problems"], results["bank"]["unknown_problem"]) == (12, 1)
    assert (results["grade"]["graded"], results["grade"]["correct"]) == (24, 0.5)
    assert results["rerank"]["solutions"] == 24


def test_samples_of_other_problems_are_refused_with_an_example(recipe, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"problem": "Who?", "text": "x"}\n')
    made = load_recipe(recipe, [f"bank.samples={tmp_path}/other.jsonl"])
    run_recipe(made, only="prepare")
    with pytest.raises(ConfigError, match=r"none of the 1 samples belongs to a problem of @prepare; .* 'Who\?'"):
        run_recipe(made, only="bank")


def test_equal_numbers_of_samples(recipe, tmp_path):
    made = load_recipe(recipe, ["bank.n=1"])
    run_recipe(made, only="prepare")
    run_recipe(made, only="bank")
    results = read_done(next((tmp_path / "runs" / "bank").iterdir()))["results"]
    assert (results["solutions"], results["surplus"]) == (12, 12)


def test_texts_with_an_answer_section_are_sections(recipe, tmp_path):
    rows = [{"problem": "What is 10 plus 10 (79190)?", "text": SECTIONS.solution(["10 + 10 = 20"], "20")}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = load_recipe(recipe, [f"bank.samples={tmp_path}/own.jsonl"])
    run_recipe(made, only="prepare")
    run_recipe(made, only="bank")
    folder = next((tmp_path / "runs" / "bank").iterdir())
    assert read_format(folder).name == "sections"
    assert read_jsonl(folder / "samples.jsonl")[0]["answer"] == "20"
