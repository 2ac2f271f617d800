"""Conversations as other tools write them: a list of turns, each with a role and a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# OpenAI and TRL say `role` and `content`; ShareGPT says `from` and `value`.
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
_NAMES = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "model", "bot"),
    "system": ("system", "developer"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}


@dataclass(frozen=True)
class Turn:
    """What one side said; `role` is user, assistant or system."""

    role: str
    text: str


@dataclass(frozen=True)
class Exchange:
    """The last question of a conversation and the reply to it; `reply` is "" where nobody has replied."""

    problem: str
    reply: str
    system: str = ""


def is_conversation(value: Any) -> bool:
    """Whether a field holds a list of turns."""
    return isinstance(value, Sequence) and not isinstance(value, str) and bool(value) and isinstance(value[0], Mapping)


def turns(value: Any) -> list[Turn]:
    """The turns of a conversation.

    Raises:
        ValueError: not a list of turns, an unknown role, or a turn without text.
    """
    if not is_conversation(value):
        raise ValueError(f"expected a list of messages with role and content, found {value!r:.60}")
    return [_turn(entry, place) for place, entry in enumerate(value)]


def _turn(entry: Any, place: int) -> Turn:
    if not isinstance(entry, Mapping):
        raise ValueError(f"message {place} is {entry!r:.60}; it must have role and content")
    role = next((entry[name] for name in _ROLE if name in entry), None)
    if not isinstance(role, str) or role not in _ROLES:
        raise ValueError(f"message {place} has role {role!r}; known are {', '.join(_ROLES)}")
    content = next((entry[name] for name in _CONTENT if name in entry), None)
    if isinstance(content, list):  # OpenAI's parts
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        content = "".join(part for part in parts if isinstance(part, str)) if len(parts) == len(content) else None
    if not isinstance(content, str):
        raise ValueError(f"message {place} ({role}) has no text")
    return Turn(_ROLES[role], content)


def last_exchange(value: Any) -> Exchange:
    """The last message of the user, the assistant's reply after it if there is one, and the system message.

    Raises:
        ValueError: no message of the user, or a reply that is followed by another question.
    """
    found = turns(value)
    asked = [place for place, turn in enumerate(found) if turn.role == "user"]
    if not asked:
        raise ValueError("the conversation has no message of the user, so no problem")
    replies = [turn.text for turn in found[asked[-1] + 1 :] if turn.role == "assistant"]
    system = next((turn.text for turn in found if turn.role == "system"), "")
    return Exchange(found[asked[-1]].text, replies[-1] if replies else "", system)


def text_of(value: Any, name: str) -> str:
    """A field that is text, or a conversation whose last message is meant.

    Raises:
        ValueError: neither; the message names the field.
    """
    if isinstance(value, str):
        return value
    if is_conversation(value):
        return turns(value)[-1].text
    raise ValueError(f"{name} is {value!r:.60}; give text, or a list of messages")
