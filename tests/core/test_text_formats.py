"""Chat templates and templates of the user's as text formats: built, saved, chosen, read back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from reward_models.contract import StepContract
from reward_models.encode import encode
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.encoding import encode_rows
from rlhf_e2h.prompts import MINERVA, SECTIONS
from rlhf_e2h.rl.rewards import Completion
from rlhf_e2h.rl.sources import RewardSources
from rlhf_e2h.runner.config import ConfigError, build
from rlhf_e2h.samples.answers import missing_answers, unfinished
from rlhf_e2h.stages.sft import Config as SftConfig
from rlhf_e2h.text_formats import FormatSettings, build_format, choose_format, from_dict, read_format, save_format

sys.path.insert(0, str(Path(__file__).parent))
from test_encoding import FAMILIES, qwen_style

WRITTEN = "3 + 4 = 7.\n\nSo 7.\n\n# Answer\n\n7"
ASK = "Please reason step by step, and put your final answer within \\boxed{}."
# As Llama's: BOS is spelled out. As Gemma's: no system role, and an end of turn that is not EOS.
LLAMA = "<s>{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}</s>{% endfor %}[assistant]"
GEMMA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)


@pytest.fixture
def qwen():
    return qwen_style()


@pytest.fixture
def chat(qwen):
    return build_format(FormatSettings("chat"), qwen, "somewhere")


def test_chat_is_the_tokenizers_own_template(qwen, chat):
    messages = [{"role": "user", "content": f"1+1? {{x}}\n\n{ASK}"}]
    assert chat.prompt("1+1? {x}") == qwen.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat.end == "<|im_end|>" and chat.stop == ()


def test_system_message_and_instruction(qwen):
    made = build_format(FormatSettings("chat", system="Be brief.", instruction=""), qwen, "somewhere")
    assert made.prompt("1+1?") == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_solutions_end_in_a_box_and_the_end_of_turn(qwen, chat):
    text = chat.exemplar(WRITTEN)
    assert text == "3 + 4 = 7.\n\nSo 7.\n\nThe final answer is $\\boxed{7}$."
    assert chat.exemplar("So $x = \\boxed{7}$.\n\n# Answer\n\n7") == "So $x = \\boxed{7}$."  # boxed already, as in MATH
    [(_, ids)] = encode_rows(qwen, [chat.row("1+1?", text)])
    assert qwen.decode(ids) == text + "<|im_end|>"  # once
    assert chat.split_steps(text) == ["3 + 4 = 7.", "So 7.", "The final answer is $\\boxed{7}$."]
    assert chat.answer(text) == "7"


def test_end_of_turn_that_is_not_eos():
    tokenizer = FAMILIES["byte-level"]()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<end>"]})
    tokenizer.chat_template = GEMMA
    made = build_format(FormatSettings("chat"), tokenizer, "somewhere")
    assert (made.end, made.stop) == ("<end>", ("<end>",))
    assert encode_rows(tokenizer, [made.row("1", "2")])[0][1][-1] == tokenizer.convert_tokens_to_ids("<end>")
    with pytest.raises(ConfigError, match=r"System role not supported.*leave `system` out"):
        build_format(FormatSettings("chat", system="x"), tokenizer, "somewhere")


def test_a_template_that_writes_bos(qwen):
    tokenizer = FAMILIES["byte-level"]()
    tokenizer.chat_template = LLAMA
    made = build_format(FormatSettings("chat"), tokenizer, "somewhere")
    [(prompt, _)] = encode_rows(tokenizer, [made.row("1+1", "2")])
    assert prompt.count(tokenizer.bos_token_id) == 1 and prompt[0] == tokenizer.bos_token_id
    for kind in ("orm", "prm"):  # two ways of encoding
        [read] = encode(tokenizer, StepContract(kind, made.template), ["1+1"], [["good step"]])
        assert read.ids[: len(prompt)] == prompt
        assert tokenizer.decode(read.ids[: read.positions[0] + 1]).endswith("good step")


def test_no_chat_template_is_said():
    with pytest.raises(ConfigError, match=r"somewhere: format chat, but its tokenizer has no chat template.*-Instruct"):
        build_format(FormatSettings("chat"), FAMILIES["byte-level"](), "somewhere")


def test_exemplars_are_turns(qwen):
    made = build_format(FormatSettings("chat", system="S", instruction=""), qwen, "x", [("3+4?", WRITTEN)])
    turns = [("system", "S"), ("user", "3+4?"), ("assistant", SOLVED), ("user", "1+1?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    assert made.prompt("1+1?") == qwen.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


SOLVED = "3 + 4 = 7.\n\nSo 7.\n\nThe final answer is $\\boxed{7}$."


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("Q: {{ problem }}\nA:", "Q: 1+1?\nA:"),
        ("{% set word = 'Solve' %}{{ word }}: {{ problem | trim }}\n\n", "Solve: 1+1?\n\n"),
    ],
)
def test_a_template_of_ones_own(template, expected):
    assert build_format(FormatSettings(template=template), None, "x").prompt("1+1?") == expected


def test_a_template_in_a_file(tmp_path):
    file = tmp_path / "prompt.jinja"
    file.write_text("{{ problem }} =>")
    settings = FormatSettings(template=str(file), answer="tag", separator="\n")
    assert settings.template == "{{ problem }} =>"  # its text is in the stage's identity, so a change counts
    made = build_format(settings, None, "x")
    assert made.exemplar("a\n\nb\n\n# Answer\n\n7") == "a\nb\n<answer>7</answer>"
    assert made.answer("a\n<answer>7</answer>") == "7"


@pytest.mark.parametrize(
    ("template", "error", "words"),
    [
        ("{{ question }}\n", ConfigError, r"'question' is undefined; its only variable is problem"),
        ("{{ problem | upper }}", ConfigError, r"changes with the problem"),
        ("{{ problem[:3] }}", ConfigError, r"changes with the problem|shows the problem 0 times"),
        ("no slot\n", ConfigError, r"shows the problem 0 times"),
        ("{{ problem }} {problem}", ConfigError, r"holds the text {problem}"),
        ("{{ ''.__class__.__mro__ }}{{ problem }}", ConfigError, r"cannot be rendered"),  # sandboxed
        ("prompt.jinja", ValueError, r"'prompt.jinja' is neither a file here nor text"),
    ],
)
def test_templates_that_are_refused(template, error, words):
    with pytest.raises(error, match=words):
        build_format(FormatSettings(template=template), None, "x")


def test_settings_are_read_from_yaml():
    common = {"policy": "x", "data": "y"}
    assert build(SftConfig, {**common, "format": "chat"}, "f").format == FormatSettings("chat")
    found = build(SftConfig, {**common, "format": {"name": "chat", "thinking": "keep"}}, "f")
    assert found.format.thinking == "keep"
    with pytest.raises(ConfigError, match=r"format: name is 'chatty'; allowed: auto, sections"):
        build(SftConfig, {**common, "format": "chatty"}, "f")


def test_saved_and_read_back(tmp_path, chat):
    for number, made in enumerate((chat, SECTIONS, MINERVA)):
        (tmp_path / str(number)).mkdir()
        save_format(made, tmp_path / str(number))
        assert read_format(tmp_path / str(number)) == made
    assert read_format(tmp_path) is None
    with pytest.raises(ConfigError, match=r"version 9"):
        from_dict({**json.loads((tmp_path / "0" / "text_format.json").read_text()), "version": 9}, "x")


def test_which_format_holds(tmp_path, qwen, chat):
    plain = FAMILIES["byte-level"]()
    assert choose_format(None, tmp_path, qwen) == (chat_of(tmp_path, qwen), "the tokenizer has a chat template")
    assert choose_format(None, tmp_path, qwen, sections=True)[0] is SECTIONS
    assert choose_format(None, tmp_path, plain)[0] is SECTIONS
    save_format(SECTIONS, tmp_path)
    assert choose_format(None, tmp_path, qwen) == (SECTIONS, "saved beside the policy")
    assert choose_format(FormatSettings("chat"), tmp_path, qwen) == (chat, "set by `format`")


def chat_of(folder, tokenizer):
    return build_format(FormatSettings("chat"), tokenizer, str(folder))


# What a reader takes for the answer, by any format; the same as `e2h check`.
TEXTS = [
    ("3*4 = 12.\n\n# Answer\n\n12", "12"),
    ("3*4 = 12, so the answer is \\(\\boxed{12}\\).", "12"),
    ("3*4=12\n\n**Answer:** 12", "12"),
    ("3*4=12\n\n# Answer: 12", "12"),
    ("<think>maybe \\boxed{9}</think>\n\nThe final answer is 12", "12"),
    ("<think>maybe \\boxed{9}", None),
    ("3*4 = 12", None),
]


@pytest.mark.parametrize("name", ["sections", "chat"])
@pytest.mark.parametrize(("text", "answer"), TEXTS)
def test_one_reader_of_answers(name, text, answer, chat):
    assert {"sections": SECTIONS, "chat": chat}[name].answer(text) == answer


def test_ppo_pays_for_right_answers_in_any_form():
    row = {"problem_id": "p", "problem": "3*4?", "level": 1}
    completions = [Completion(row, text, True) for text, _ in TEXTS]
    with CheckerPool() as pool:
        rewards = RewardSources({"p": Label("p", "12", "", "train")}, pool)(completions)
    assert [reward.outcome for reward in rewards] == [float(answer is not None) for _, answer in TEXTS]


def test_thoughts_are_dropped_or_kept(qwen):
    raw = "<think>Hm.\n\nIs it \\boxed{9}?</think>\n\n3 + 4 = 7.\n\nSo \\boxed{7}."
    steps = ["3 + 4 = 7.", "So \\boxed{7}."]
    strip = build_format(FormatSettings("chat"), qwen, "x")
    keep = build_format(FormatSettings("chat", thinking="keep"), qwen, "x")
    assert strip.completed(raw, True) == ("3 + 4 = 7.\n\nSo \\boxed{7}.", "7", True)
    assert keep.completed(raw, True) == (raw, "7", True)
    for made in (strip, keep):
        assert made.split_steps(raw) == steps
        ends = made.step_ends(raw)
        assert [raw[end - len(step) : end] for step, end in zip(steps, ends, strict=True)] == steps
        assert made.completed("<think>Is it \\boxed{9}?", False)[1:] == (None, False)
        assert made.split_steps("<think>Is it \\boxed{9}?") == [""]


def test_prompts_that_open_the_thought(qwen):
    """DeepSeek-R1's and QwQ's templates end in <think>, so completions hold the closing tag only."""
    qwen.chat_template = qwen.chat_template.replace("assistant\n", "assistant\n<think>\n")
    made = build_format(FormatSettings("chat"), qwen, "x")
    assert made.completed("Hm.</think>\n\nSo \\boxed{7}.", True) == ("So \\boxed{7}.", "7", True)
    text, answer, _ = made.completed("Hm, \\boxed{9}?", False)  # cut inside its thought
    assert answer is None and made.of_rows().split_steps(text) == [""]
    assert made.row("1", "So \\boxed{7}.")["completion"] == "</think>\n\nSo \\boxed{7}."
    assert made.of_rows().split_steps("So \\boxed{7}.") == ["So \\boxed{7}."]


def test_a_base_model_that_goes_on_with_the_next_question():
    """A base model never ends its text: it goes on as its exemplars do (issue of every in-context baseline)."""
    raw = "1+1=2\n\n# Answer\n\n2\n\n# Question\n\n5+5?\n\n# Solution\n\n5+5=10\n\n# Answer\n\n10"
    assert SECTIONS.completed(raw, False) == ("1+1=2\n\n# Answer\n\n2", "2", True)
    assert SECTIONS.completed("1+1=2\n\n# Answer\n\n2", False) == ("1+1=2\n\n# Answer\n\n2", None, False)
    assert SECTIONS.completed("a\r\n\r\n# Answer\r\n\r\n2", True) == ("a\n\n# Answer\n\n2", "2", True)
    assert SECTIONS.completed("no answer\n\n# Question\n\n5+5?", False)[1:] == (None, False)


def test_samples_without_answers_are_said():
    rows = [{"text": f"so {i}", "answer": None, "finished": True} for i in range(3)]
    rows += [
        {"text": "# Answer\n\n2", "answer": "2", "finished": True},
        {"text": "a", "answer": None, "finished": False},
    ]
    said = missing_answers(rows, SECTIONS)
    assert said is not None and "3 of 4 finished samples hold no answer" in said
    assert "'so 0'" in said and "`format: chat`" in said
    assert missing_answers([*rows, rows[3], rows[3]], SECTIONS) is None  # half of them do


def test_samples_without_an_end_are_said_above_a_tenth():
    rows = [{"finished": index > 0} for index in range(10)]
    assert unfinished(rows, 64) is None
    assert unfinished(rows[:9], 64) == "1 of 9 samples were cut at max_new_tokens=64 before an end token; raise it"
    assert "`stop`" in str(unfinished(rows[:1], 64))


def test_a_reward_model_reads_the_same_prompt(chat):
    contract = StepContract("orm", template=chat.template, separator=chat.separator, answer_mark=chat.answer_mark)
    assert contract.prompt("1+1?") == chat.prompt("1+1?")
