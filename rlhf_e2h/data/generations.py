"""Solutions that somebody else's generator wrote, in the shapes in which generators log them.

| rows | text | problem |
|---|---|---|
| plain | `text`, `completion`, `response`, `output`, `generated_text`, or lists of them | `problem_id` or `problem` |
| `messages`, `conversations` | the last reply | the last message of the user |
| OpenAI batch output | every choice of `response` | `custom_id`, or the message in the batch's request file |
| lm-evaluation-harness log | every text of `resps` | `doc` |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reward_models.chat_markers import unwrap_chat, without_special
from reward_models.files import BadRecord
from reward_models.messages import last_exchange, text_of
from rlhf_e2h.data.files import Row
from rlhf_e2h.data.levels import problem_key
from rlhf_e2h.data.own_rows import PROBLEM, exchange, given_id, problem_text

TEXTS = ("text", "completion", "response", "output", "generation", "generated_text", "prediction", "model_output")
LISTS = ("texts", "completions", "responses", "outputs", "generations", "samples")
IDS = ("problem_id", "unique_id", "custom_id", "id", "doc_id")
CUT = ("length", "max_tokens", "content_filter")  # finish reasons of a text that did not end by itself
SHORTEST = 12  # characters of a problem that is looked for inside a longer prompt


@dataclass(frozen=True)
class Generation:
    """One text, what is known of its problem, and whether it ended (None: the log does not say)."""

    where: str
    text: str
    problem_id: str = ""
    problem: str = ""
    system: str = ""
    finished: bool | None = None


def read_generations(
    rows: Iterable[Row], requests: Mapping[str, Generation], failed: list[str]
) -> Iterator[Generation]:
    """The texts of all rows. `requests` are those of an OpenAI batch by `custom_id`; `failed` gets those without.

    Raises:
        BadRecord: a row without text, or without anything that names its problem.
    """
    for row in rows:
        if "resps" in row.fields and "doc" in row.fields:
            yield from _harness(row)
        elif isinstance(row.fields.get("response"), Mapping) or ("error" in row.fields and "custom_id" in row.fields):
            yield from _batch(row, requests, failed)
        else:
            yield from _plain(row)


def read_requests(rows: Iterable[Row]) -> dict[str, Generation]:
    """The requests of an OpenAI batch by `custom_id`; their `text` is empty.

    Raises:
        BadRecord: a row that is not such a request.
    """
    found = {}
    for row in rows:
        body = row.fields.get("body")
        if not isinstance(body, Mapping) or "messages" not in body:
            raise BadRecord(f"{row.where}: not a request of an OpenAI batch; it has no body with messages")
        name = row.text("custom_id")
        talk = _exchange(row.where, body["messages"])
        found[name] = Generation(row.where, "", name, talk.problem, talk.system)
    return found


def _exchange(where: str, messages: Any) -> Any:
    try:
        return last_exchange(messages)
    except ValueError as error:
        raise BadRecord(f"{where}: messages: {error}") from None


def _plain(row: Row) -> Iterator[Generation]:
    talk = exchange(row)
    problem_id = given_id(row, IDS)
    named = any(row.fields.get(name) is not None for name in PROBLEM)
    problem = problem_text(row) if named else talk.problem if talk else ""
    if not problem_id and not problem:
        raise BadRecord(
            f"{row.where}: nothing names the problem; give problem_id, problem or messages; the row has "
            f"{sorted(row.fields)}"
        )
    finished = _finished(row.fields)
    for text in _texts(row, talk.reply if talk else ""):
        yield Generation(row.where, text, problem_id, problem, talk.system if talk else "", finished)


def _texts(row: Row, reply: str) -> list[str]:
    values = next((row.fields[name] for name in LISTS if isinstance(row.fields.get(name), list)), None)
    if values is None:
        name = next((name for name in TEXTS if row.fields.get(name) is not None), None)
        values = [row.fields[name]] if name else [reply] if reply else []
    if values and isinstance(values[0], Mapping) and "role" in values[0]:
        values = [values]  # one completion, as messages
    try:
        texts = [_text(value) for value in values]
    except ValueError as error:
        raise BadRecord(f"{row.where}: {error}") from None
    if not texts:
        raise BadRecord(f"{row.where}: no text of a solution; give one of {', '.join((*TEXTS, *LISTS))} or messages")
    return texts


def _text(value: Any) -> str:
    """A text, a message, or an object with one under a usual name (vLLM's outputs have `text`)."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in (*TEXTS, "content") if name in value), None)
    return text_of(value, "a solution")


def _finished(fields: Mapping[str, Any]) -> bool | None:
    if isinstance(fields.get("finished"), bool):
        return bool(fields["finished"])
    reason = fields.get("finish_reason")
    return reason not in CUT if isinstance(reason, str) else None


def _batch(row: Row, requests: Mapping[str, Generation], failed: list[str]) -> Iterator[Generation]:
    name = row.text("custom_id")
    response = row.fields.get("response") or {}
    body = response.get("body") or {}
    if row.fields.get("error") or response.get("status_code", 200) != 200 or not body.get("choices"):
        failed.append(f"{row.where} ({name})")
        return
    asked = requests.get(name, Generation(row.where, "", name))
    for choice in body["choices"]:
        text = (choice.get("message") or {}).get("content") if "message" in choice else choice.get("text")
        if not isinstance(text, str):
            failed.append(f"{row.where} ({name})")
            continue
        yield Generation(row.where, text, name, asked.problem, asked.system, _finished(choice))


def _harness(row: Row) -> Iterator[Generation]:
    doc = row.fields["doc"]
    if not isinstance(doc, Mapping):
        raise BadRecord(f"{row.where}: doc is {doc!r:.60}; it must be the row of the task's data set")
    inner = Row(f"{row.where}: doc", dict(doc))
    given = given_id(inner, ("problem_id", "unique_id"))
    responses = row.fields["resps"]
    flat = [text for group in responses for text in (group if isinstance(group, list) else [group])]
    for text in flat:
        if not isinstance(text, str):
            raise BadRecord(f"{row.where}: resps hold {text!r:.60}; only tasks that generate text can be read")
        yield Generation(row.where, text, given, problem_text(inner))


@dataclass
class Finder:
    """Finds the prepared problem that a generation belongs to."""

    ids: set[str]
    keys: dict[str, str]  # problem key -> problem id
    cache: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, problems: Iterable[Mapping[str, Any]]) -> Finder:
        rows = list(problems)
        return cls(
            {row["problem_id"] for row in rows}, {problem_key(row["problem"]): row["problem_id"] for row in rows}
        )

    def find(self, generation: Generation) -> str | None:
        """By its text where it has one, since ids of other tools are often row numbers; else by its id."""
        if generation.problem:
            if generation.problem not in self.cache:
                self.cache[generation.problem] = self._by_text(generation.problem)
            if (found := self.cache[generation.problem]) is not None:
                return found
        return generation.problem_id if generation.problem_id in self.ids else None

    def _by_text(self, text: str) -> str | None:
        """The same text up to spacing and case; else the last problem that a longer prompt holds."""
        try:
            talk = unwrap_chat(text)
        except ValueError:
            talk = None
        key = problem_key(talk.problem if talk else without_special(text))
        if key in self.keys:
            return self.keys[key]
        places = [(key.rfind(known) + len(known), len(known), known) for known in self.keys if len(known) >= SHORTEST]
        end, _, known = max((place for place in places if place[0] >= place[1]), default=(0, 0, ""))
        return self.keys[known] if end else None
