"""Chat templates turned back into problem and solution: what a trainer sends that has applied its policy's template.

ChatML (Qwen, SmolLM), Llama 2 and 3, Mistral, Gemma, Phi and Zephyr, DeepSeek; and the prompts of this project's
policies. A score for a text with markers in it would be a score for another text, so what is not understood is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from reward_models.messages import Exchange

BEGINNINGS = ("<s>", "<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>", "<|startoftext|>")
ENDS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>"),
    *("</s>", "<eos>", "<|end|>", "<｜end▁of▁sentence｜>", "<|return|>"),
)
_ROLE = {"user": "user", "human": "user", "assistant": "assistant", "model": "assistant", "system": "system"}
_HEADER = re.compile(
    r"<\|im_start\|>(?P<chatml>\w+)\n?"
    r"|<\|start_header_id\|>(?P<llama3>\w+)<\|end_header_id\|>\n{0,2}"
    r"|<start_of_turn>(?P<gemma>\w+)\n?"
    r"|<\|(?P<phi>user|assistant|system)\|>\n?"
    r"|<｜(?P<deepseek>User|Assistant)｜>"
    r"|\[(?P<mistral>INST|/INST)\] ?"
)
_SYSTEM = re.compile(r"<<SYS>>.*?<</SYS>>\s*|\[SYSTEM_PROMPT\].*?\[/SYSTEM_PROMPT\]\s*", re.DOTALL)
_MARKER = re.compile(r"<\|[\w/]+\|>|<(?:start|end)_of_turn>|\[/?INST\]|<｜[^｜\n]+｜>")
# Prompts of policies of this project, of the easy-to-hard release and of Minerva.
_PROMPTS = (
    re.compile(r"# Question\n\n(?P<problem>.*?)\n\n# [^\n]*[Ss]olution\n\n(?P<rest>.*)", re.DOTALL),
    re.compile(r"Problem:\n(?P<problem>.*?)\n\nSolution:\n?(?P<rest>.*)", re.DOTALL),
)


def without_special(text: str, special: Iterable[str] = ()) -> str:
    """The text without `special` tokens and those of known families at its ends."""
    beginnings, ends = (*BEGINNINGS, *special), (*ENDS, *special)
    while found := next((token for token in beginnings if text.startswith(token)), None):
        text = text[len(found) :]
    while found := next((token for token in ends if text.rstrip("\n").endswith(token)), None):
        text = text.rstrip("\n")[: -len(found)]
    return text


def unwrap_chat(text: str) -> Exchange | None:
    """The last question and reply of a text in a chat template; None for a text without one.

    Raises:
        ValueError: turns that end without a question, or an unknown role.
    """
    bare = _SYSTEM.sub("", without_special(text)).lstrip()
    marks = list(_HEADER.finditer(bare))
    if not marks or bare[: marks[0].start()].strip():
        return None
    problem, reply, system = "", "", ""
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        body = without_special(bare[mark.end() : following.start() if following else len(bare)]).strip("\n")
        role = _role(mark)
        if role == "user":
            problem, reply = body.strip(), ""
        elif role == "assistant":
            reply = body
        else:
            system = body
    if not problem:
        raise ValueError("is a chat without a message of the user")
    return Exchange(problem, reply, system)


def _role(mark: re.Match[str]) -> str:
    name = next(value for value in mark.groups() if value is not None).lower()
    name = {"inst": "user", "/inst": "assistant"}.get(name, name)
    if name not in _ROLE:
        raise ValueError(f"is a chat with the role {name!r}; known are {', '.join(_ROLE)}")
    return _ROLE[name]


def unwrap_prompt(text: str) -> tuple[str, str] | None:
    """(problem, solution) of a text in the form of a known policy's prompt; None for another."""
    found = next((match for pattern in _PROMPTS if (match := pattern.fullmatch(text))), None)
    return (found["problem"], found["rest"]) if found else None


def left_markers(text: str) -> str | None:
    """A chat marker that is still in the text, or None."""
    found = _MARKER.search(text)
    return found[0] if found else None
