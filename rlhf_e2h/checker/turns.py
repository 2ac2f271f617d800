"""A model's own words in a text as it was decoded: no chat tokens, no thoughts, one kind of line end."""

from __future__ import annotations

import re

MAX_TEXT = 100_000  # characters; the end of a longer text is searched, where answers stand

# Tokens of chat templates, whatever their name: <|im_end|>, <|eot_id|>, <｜end▁of▁sentence｜>. What brackets a thought
# is read by `_without_thoughts`.
_SPECIAL = r"<[|｜](?!(?:begin|end)_of_thought)[A-Za-z][\w▁]+[|｜]>|</?s>|<(?:bos|eos|pad|unk)>|<(?:end|start)_of_turn>"
_LEADING = re.compile(rf"\s*(?:(?:{_SPECIAL})\s*)+")
_END = re.compile(rf"(?:{_SPECIAL}|\[/?INST\])".replace("</?s>", "</s>"))
_ASSISTANT = re.compile(
    r"(?:<\|im_start\|>|<\|start_header_id\|>|<\|start\|>|<start_of_turn>)\s*(?:assistant|model)\b"
    r"(?:\s*(?:<\|end_header_id\|>|<\|message\|>))?|<[|｜]assistant[|｜]>|\[/INST\]",
    re.I,
)
_OPENING = re.compile(rf"\s*(?:{_SPECIAL}|\[INST\])")
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\s*<\|message\|>|<\|begin_of_solution\|>")
_THOUGHT_END = re.compile(r"</(?:think|thinking|thought|reasoning)>|<\|end_of_thought\|>|\[/THINK\]|◁/think▷", re.I)
_THOUGHT = re.compile(r"<(?:think|thinking|thought|reasoning)>|<\|begin_of_thought\|>|\[THINK\]|◁think▷", re.I)


def own_words(text: str) -> str:
    """The text that a reader sees: after the last thought, up to the first end token, line ends as `\\n`.

    A thought that is never closed leaves only what stood before it; a draft is not an answer.
    """
    text = text[-MAX_TEXT:]
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.startswith("\ufeff"):
        text = text[1:]
    if any(mark in text for mark in ("<", "INST]", "THINK]", "◁")):
        text = _without_thoughts(_one_turn(text))
    return text.strip()


def _one_turn(text: str) -> str:
    """The first turn of the assistant, or the text itself, without special tokens around it."""
    final = _FINAL_CHANNEL.search(text)
    if final:
        text = text[final.end() :]
    elif _OPENING.match(text) and (header := _ASSISTANT.search(text)):
        text = text[header.end() :]
    leading = _LEADING.match(text)
    return _END.split(text[leading.end() :] if leading else text, maxsplit=1)[0]


def _without_thoughts(text: str) -> str:
    text = _THOUGHT_END.split(text)[-1]
    opening = _THOUGHT.search(text)
    return text[: opening.start()] if opening else text
