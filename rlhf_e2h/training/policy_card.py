"""What stands beside a trained policy for those who open it elsewhere: a chat template as trained, a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reward_models.model import checkpoint_name
from reward_models.special_tokens import leading_text
from rlhf_e2h.prompts import TextFormat

_TEMPLATE = """{{%- set asked = messages | selectattr('role', 'equalto', 'user') | list -%}}
{{{{- {before} + asked[-1]['content'] + {after} -}}}}
{{%- if messages[-1]['role'] == 'assistant' %}}{{{{ messages[-1]['content'] }}}}{{% endif -%}}
"""

_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [rlhf_e2h]
---
# Policy

Trained with `rlhf_e2h` from `{base}`. It answers in the text format `{format}` (all of it: `text_format.json`).
The prompt is

```json
{prompt}
```
{chat}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = AutoModelForCausalLM.from_pretrained("PATH"), AutoTokenizer.from_pretrained("PATH")
prompt = {prompt}.replace("{{problem}}", "What is 2 + 3?")
encoded = tokenizer(prompt, return_tensors="pt"{special})
print(tokenizer.decode(model.generate(**encoded, max_new_tokens=256)[0]))
```

Settings, labels that were read and results: the stage's files beside this one.
"""


def trained_template(text_format: TextFormat, tokenizer: Any) -> str | None:
    """The chat template to save: the tokenizer's own where the policy was trained in it, else the prompt as trained.

    A base model's template would show the policy prompts that it was not trained on. None for a tokenizer without one.
    """
    own: str | None = tokenizer.chat_template
    if not own or text_format.name == "chat":
        return own
    before, after = text_format.template.split("{problem}", 1)
    before, after = (json.dumps(part, ensure_ascii=False) for part in (leading_text(tokenizer) + before, after))
    return _TEMPLATE.format(before=before, after=after)


def policy_card(text_format: TextFormat, tokenizer: Any, base: str | Path) -> str:
    """Markdown: base model, prompt, how to call it."""
    chat = text_format.name == "chat"
    return _CARD.format(
        base=checkpoint_name(base) if str(base) else "random weights",
        format=text_format.name,
        prompt=json.dumps(text_format.template, ensure_ascii=False),
        chat="" if tokenizer.chat_template is None else "`tokenizer.apply_chat_template` makes it, too"
        + (", without the instruction after the problem.\n" if chat else ".\n"),
        special=", add_special_tokens=False" if chat else "",
    )  # fmt: skip
