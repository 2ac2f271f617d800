"""Every stage reads a prompt as the same token ids: BOS once where the tokenizer puts one, no EOS."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from reward_models.contract import StepContract
from reward_models.encode import encode
from rlhf_e2h.encoding import check_context, check_positions, encode_prompts, encode_rows, leading_ids, trl_rows
from rlhf_e2h.rl.rollout import generate
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.training.encoded_trainers import dpo_trainer, online_trainer
from rlhf_e2h.training.items import completion_logprobs

sys.path.insert(0, str(Path(__file__).parents[1] / "reward_models"))
from tokenizers_for_tests import CORPUS, FAMILIES, tiny_llama

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_style() -> PreTrainedTokenizerFast:
    """Byte-level BPE without BOS, with ChatML and its own end of turn."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s*\n+| ?\w+|[^\s\w]+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = CHAT
    return made


def word_style() -> PreTrainedTokenizerFast:
    """The shared WordPiece-like tokenizer with an end token; it puts [CLS] before a text and [SEP] after it."""
    made = FAMILIES["wordpiece"]()
    made.eos_token = "[SEP]"
    return made


ALL = {**FAMILIES, "wordpiece": word_style, "qwen": qwen_style}
# What stands before a text, spelled out: nothing for Qwen.
BEFORE = {"byte-level": ["<s>"], "sentencepiece": ["<s>"], "wordpiece": ["[CLS]"], "qwen": []}
PROBLEM = "What is 3 + 4?"
PROMPT = f"# Question\n\n{PROBLEM}\n\n# Solution\n\n"
ANSWER = "3 + 4 = 7.\n\n# Answer\n\n7"


@pytest.fixture(params=sorted(ALL))
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    return ALL[family]()


@pytest.fixture
def prompt_ids(family: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """By another way than the encoder: the text's own pieces behind the special tokens of the table."""
    return [*map(tokenizer.convert_tokens_to_ids, BEFORE[family]), *tokenizer.encode(PROMPT, add_special_tokens=False)]


def test_prompts(tokenizer: PreTrainedTokenizerFast, prompt_ids: list[int]) -> None:
    assert encode_prompts(tokenizer, [PROMPT]) == [prompt_ids]


def test_the_sampler_reads_them(tokenizer: PreTrainedTokenizerFast, prompt_ids: list[int]) -> None:
    rollouts = generate(tiny_llama(tokenizer), tokenizer, [PROMPT], n=2, max_new_tokens=2)
    assert rollouts.prompt_ids == [prompt_ids, prompt_ids]  # what PPO computes ratios on as well


def test_sft_reads_them(tokenizer: PreTrainedTokenizerFast, prompt_ids: list[int], tmp_path: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    rows = trl_rows(tokenizer, [{"prompt": PROMPT, "completion": ANSWER}] * 2)
    arguments = SFTConfig(str(tmp_path), report_to="none", use_cpu=True, max_length=400, completion_only_loss=True)
    trainer = SFTTrainer(
        tiny_llama(tokenizer), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    row = trainer.train_dataset[0]
    trained = [label for label in row["labels"] if label != -100]
    assert row["input_ids"][: len(prompt_ids)] == prompt_ids
    assert row["input_ids"][len(prompt_ids) :] == trained
    assert trained[-1] == tokenizer.eos_token_id not in trained[:-1]


def test_dpo_reads_them(tokenizer: PreTrainedTokenizerFast, prompt_ids: list[int], tmp_path: Path) -> None:
    from trl import DPOConfig

    from rlhf_e2h.encoding import preference_rows

    rows = preference_rows(tokenizer, [{"prompt": PROMPT, "chosen": ANSWER, "rejected": "8"}] * 2)
    arguments = DPOConfig(str(tmp_path), report_to="none", use_cpu=True, max_length=400)
    trainer = dpo_trainer()(
        tiny_llama(tokenizer),
        tiny_llama(tokenizer),
        arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    row = trainer.train_dataset[0]
    assert row["prompt_ids"] == prompt_ids
    assert row["chosen_ids"][-1] == row["rejected_ids"][-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_grpo_reads_them(
    tokenizer: PreTrainedTokenizerFast, prompt_ids: list[int], tmp_path: Path, algorithm: str
) -> None:
    kind = online_trainer(algorithm)
    made = kind.__new__(kind)
    made.processing_class = tokenizer
    assert made._tokenize_prompts([PROMPT])[0] == [prompt_ids]


def test_a_reward_model_reads_them(tokenizer: PreTrainedTokenizerFast, prompt_ids: list[int]) -> None:
    row = encode(tokenizer, StepContract("prm"), [PROBLEM], [["3 + 4 = 7.", "# Answer\n\n7"]])[0]
    # the last token of a prompt may straddle into the first step where the whole text is encoded at once
    assert row.ids[: len(prompt_ids) - 2] == prompt_ids[: len(prompt_ids) - 2]


def test_vllm_is_asked_for_them(tokenizer: PreTrainedTokenizerFast, prompt_ids: list[int]) -> None:
    from rlhf_e2h.rl.engine_settings import Sampling
    from rlhf_e2h.rl.engine_vllm import VLLMServer

    asked = []

    class Recorder(VLLMServer):
        """A server that keeps the request and answers with one end token."""

        def __init__(self) -> None:
            self.tokenizer, self.model, self.vocabulary = tokenizer, "served", 0

        def _call(self, path, body):
            asked.append(body["prompt"])
            return {
                "choices": [{"index": 0, "token_ids": [tokenizer.eos_token_id], "logprobs": {"token_logprobs": [0.0]}}]
            }

    Recorder().sample([PROMPT], Sampling(n=1, max_new_tokens=1))
    assert asked == [prompt_ids]


def test_bos_is_not_written_twice() -> None:
    """Templates of Llama and Gemma spell BOS out; their tokenizers put it there as well."""
    tokenizer = FAMILIES["byte-level"]()
    assert leading_ids(tokenizer) == [tokenizer.bos_token_id]
    [once], [spelled] = encode_prompts(tokenizer, ["a b"]), encode_prompts(tokenizer, ["<s>a b"])
    assert once == spelled == [tokenizer.bos_token_id, *tokenizer.encode("a b", add_special_tokens=False)]


def test_no_end_of_text_after_a_prompt() -> None:
    tokenizer = word_style()
    assert tokenizer("good step")["input_ids"][-1] == tokenizer.sep_token_id  # what the tokenizer itself does
    assert tokenizer.sep_token_id not in encode_prompts(tokenizer, ["good step"])[0]


def test_a_completion_continues_its_prompt() -> None:
    """SentencePiece puts a blank before a text of its own, which no sampled completion has."""
    tokenizer = FAMILIES["sentencepiece"]()
    [(prompt, completion)] = encode_rows(tokenizer, [{"prompt": "bad step.\n", "completion": "good"}])
    whole = tokenizer.encode("bad step.\ngood")  # one text, by the tokenizer alone
    assert [*prompt, *completion] == [*whole, tokenizer.eos_token_id]
    assert tokenizer.convert_ids_to_tokens(completion)[0] != "▁good"


def test_completion_logprobs_are_those_of_the_sampled_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """The mean log-probability of a row is what plain arithmetic on the joined ids gives."""
    torch.manual_seed(0)
    model = tiny_llama(tokenizer).eval()
    row = {"prompt": PROMPT, "completion": "good step."}
    [(prompt, completion)] = encode_rows(tokenizer, [row])
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        found = completion_logprobs(model, tokenizer, [row])[0]
    start = len(prompt)
    expected = [logprobs[start + i - 1, token] for i, token in enumerate(completion)]
    assert torch.isclose(found, torch.stack(expected).mean(), atol=1e-5)


def test_an_end_of_turn_of_ones_own() -> None:
    tokenizer = qwen_style()
    row = {"prompt": "good", "completion": "bad", "end": "<|endoftext|>"}
    assert encode_rows(tokenizer, [row])[0][1][-1] == tokenizer.convert_tokens_to_ids("<|endoftext|>")


def test_prompts_that_do_not_fit() -> None:
    model = tiny_llama(qwen_style())  # 512 positions
    check_context("sample", model, [[1] * 412], 100)
    with pytest.raises(ConfigError, match=r"1 prompts with max_new_tokens 101 .* 512 positions \(p7\); .* 100"):
        check_context("sample", model, [[1] * 412], 101, ["p7"])


def test_rows_that_do_not_fit() -> None:
    model = tiny_llama(qwen_style())  # 512 positions
    check_positions("sft", model, [512, 9999], 512)  # cut at 512
    with pytest.raises(ConfigError, match=r"sft: a row has 600 tokens, .* 512 positions; lower .* from 1024 to 512"):
        check_positions("sft", model, [600], 1024)
