"""What stands beside a trained policy is true: its chat template makes the prompt of its training, its card runs."""

import json
import re

import pytest
from transformers import AutoTokenizer

from rlhf_e2h.encoding import encode_prompts
from rlhf_e2h.prompts import MINERVA, SECTIONS
from rlhf_e2h.text_formats import FormatSettings, build_format
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROBLEM = 'What is "2 + 3" {{ x }}?'


@pytest.fixture
def made():
    model, tokenizer = new_llama(ModelShape(hidden=32, layers=1, intermediate=48, heads=2), "procedural", seed=0)
    tokenizer.chat_template = CHATML
    return model, tokenizer


@pytest.mark.parametrize("used", [SECTIONS, MINERVA])
def test_the_template_is_the_prompt_of_training(made, tmp_path, used):
    """A base model's own template would show the policy prompts that it was never trained on."""
    save_policy(*made, tmp_path, used)
    assert made[1].chat_template == CHATML  # evaluation after saving still has its own
    again = AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}]
    ids = again.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == encode_prompts(again, [used.prompt(PROBLEM)])[0]
    answered = again.apply_chat_template([*messages, {"role": "assistant", "content": "5"}], tokenize=False)
    assert answered.endswith(used.prompt(PROBLEM) + "5")


def test_a_policy_of_a_chat_format_keeps_its_template(made, tmp_path):
    save_policy(*made, tmp_path, build_format(FormatSettings("chat"), made[1], "here"))
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == CHATML


@pytest.mark.parametrize("own", [None, CHATML])
def test_the_card_runs(made, tmp_path, own, capsys):
    model, tokenizer = made
    tokenizer.chat_template = own
    model.config.name_or_path = "/somebody/runs/sft/75103d172ea8"
    save_policy(model, tokenizer, tmp_path, SECTIONS)
    card = (tmp_path / "README.md").read_text()
    assert "from `sft`" in card and "/somebody" not in card
    assert ("apply_chat_template" in card) == (own is not None)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1].replace("PATH", str(tmp_path))
    assert json.loads(re.search(r"```json\n(.*?)\n```", card, re.DOTALL)[1]) == SECTIONS.template
    exec(compile(code, "README.md", "exec"), {})
    assert "2" in capsys.readouterr().out  # of the prompt; this tokenizer has no letters for the rest
