"""What trainers send that have applied their policy's chat template; and answers that are missing."""

import json

import pytest

from reward_models.__main__ import run
from reward_models.chat_markers import unwrap_chat, without_special
from reward_models.contract import StepContract
from reward_models.serving.request import BadRequestError
from reward_models.serving.score import get_reward
from reward_models.voting import answer_classes

PROBLEM, SOLUTION = "What is 2 + 3?", "2 + 3 = 5\n\n# Answer\n\n5"
STEPS = ["2 + 3 = 5", "# Answer\n\n5"]
# (prompt, end of the reply) as the tokenizers' own templates write them
TEMPLATES = {
    "chatml": (f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>\n"),  # noqa: E501
    "llama3": (f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n{PROBLEM}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),  # noqa: E501
    "llama2": (f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{PROBLEM} [/INST] ", "</s>"),
    "mistral": (f"<s>[INST] {PROBLEM} [/INST]", "</s>"),
    "gemma": (f"<bos><start_of_turn>user\n{PROBLEM}<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n"),
    "phi": (f"<|user|>\n{PROBLEM}<|end|>\n<|assistant|>\n", "<|end|>"),
    "zephyr": (f"<|system|>\nBe brief.</s>\n<|user|>\n{PROBLEM}</s>\n<|assistant|>\n", "</s>"),
    "deepseek": (f"<｜begin▁of▁sentence｜><｜User｜>{PROBLEM}<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    "ours": (f"# Question\n\n{PROBLEM}\n\n# Solution\n\n", "<eos>"),
    "ours in chatml": (f"<|im_start|>user\n# Question\n\n{PROBLEM}\n\n# Solution<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),  # noqa: E501
    "minerva": (f"Problem:\n{PROBLEM}\n\nSolution:\n", "</s>"),
}  # fmt: skip
MARKED = StepContract("prm", template="# Question\n\n{problem}\n\n# Marked solution\n\n")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("contract", [StepContract("prm"), MARKED])
@pytest.mark.parametrize("with_prompts", [True, False])
def test_prompts_of_policies_are_unwrapped(name, contract, with_prompts):
    prompt, end = TEMPLATES[name]
    body = {"query": [prompt + SOLUTION + end]} | ({"prompts": [prompt]} if with_prompts else {})
    assert get_reward(body, contract, []).items == [(PROBLEM, STEPS)]


def test_real_templates_agree():
    """A template rendered by the library that applies it, with a later question after an earlier exchange."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"x": 0}, unk_token="x")))
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", PROBLEM)]
    messages = [{"role": role, "content": text} for role, text in turns]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert get_reward({"query": [prompt + SOLUTION], "prompts": [prompt]}, MARKED, []).items == [(PROBLEM, STEPS)]


@pytest.mark.parametrize(
    "body",
    [
        {"query": ["<|start|>user<|message|>2 + 3?<|end|><|start|>assistant<|message|>5"]},
        {"query": ["2+3? <|im_start|>assistant\n5"], "prompts": ["2+3? <|im_start|>assistant\n"]},
        {"query": ["2+3?\n5 [INST] 6"], "prompts": ["2+3?\n"]},
        {"query": ["<|im_start|>tool\n2 + 3?<|im_end|>\n<|im_start|>assistant\n5"]},
        {"query": ["<|im_start|>assistant\n5<|im_end|>"]},
    ],
)
def test_what_is_not_understood_is_refused(body):
    with pytest.raises(BadRequestError, match="query 0 "):
        get_reward(body, MARKED, [])


def test_text_without_markers_stays_as_it_is():
    assert unwrap_chat("Compare |x| < 3 and <s>") is None
    assert without_special("<s>a < b</s>\n<|im_end|>\n", ["<pad>"]) == "a < b"
    assert without_special("a\n\n") == "a\n\n"


def test_blank_answers_are_missing(tmp_path, capsys):
    assert answer_classes(["", " \n", None, "7", "7"]) == [-1, -1, -1, 0, 0]
    blanks = ["", "  ", None, float("nan")]
    rows = [
        {"problem_id": p, "answer": blanks[i + p], "correct": False, "score": 0.9} for p in range(2) for i in range(3)
    ]
    rows += [{"problem_id": p, "answer": "7", "correct": True, "score": 0.5} for p in range(2)]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["rerank", str(tmp_path / "scored.jsonl"), "--n", "4", "-o", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [found[name]["4"] for name in ("majority", "weighted_vote", "best_of_n")] == [1.0, 1.0, 1.0]


def test_class_minus_one_is_no_answer(tmp_path):
    """The classes of a checker: -1 says that there is no answer."""
    rows = [{"problem_id": 1, "answer_class": c, "correct": c == 0, "score": 0.5} for c in (-1, -1, 0)]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["rerank", str(tmp_path / "scored.jsonl"), "--n", "3", "-o", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["majority"] == {"3": 1.0}
