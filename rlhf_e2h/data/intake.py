"""What to do with rows that lack a level or an answer, or whose id was seen before; and how many there were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from reward_models.records import BadRecord
from rlhf_e2h.data.levels import LEVELS, parse_level

NO_LEVEL, NO_ANSWER, DUPLICATE_ID = "no level", "no answer", "duplicate id"
ACTIONS = {
    NO_LEVEL: ("error", "drop", "keep"),
    NO_ANSWER: ("error", "drop"),
    DUPLICATE_ID: ("error", "drop"),
}
_MEANING = {
    "drop": "to leave such rows out",
    "keep": "to use such problems for training as if they were hard",
}
MAX_PLACES = 10


@dataclass
class Intake:
    """Rules for flawed rows and the record of what they did; one instance serves all files of a source.

    "error" stops at the first such row, "drop" leaves it out, "keep" (levels only) lets the problem pass without a
    level: it is never easy and never tested. `default_level` is given to rows without one before any rule (0: none).
    """

    unknown_level: str = "error"
    no_answer: str = "error"
    duplicate_id: str = "error"
    default_level: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACTIONS, 0))
    places: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in ACTIONS})
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in ACTIONS:
            name, action = _option(kind), self.action(kind)
            if action not in ACTIONS[kind]:
                raise ValueError(f"{name}: {action!r} is not allowed; use one of {', '.join(ACTIONS[kind])}")
        if self.default_level not in (0, *LEVELS):
            raise ValueError(f"default_level: {self.default_level!r} is not allowed; use 1 to 5, or 0 for none")

    def action(self, kind: str) -> str:
        return str(getattr(self, _option(kind)))

    def passes(self, kind: str, where: str, detail: str) -> bool:
        """Apply the rule for a flaw: True if the row goes on, False if it is left out.

        Raises:
            BadRecord: the rule is "error".
        """
        action = self.action(kind)
        if action == "error":
            others = " or ".join(f"{_option(kind)}={name} {_MEANING[name]}" for name in ACTIONS[kind][1:])
            raise BadRecord(f"{where}: {detail}; correct the row, or set {others}")
        self.counts[kind] += 1
        if len(self.places[kind]) < MAX_PLACES:
            self.places[kind].append(where)
        return action == "keep"

    def level(self, value: Any, where: str) -> int | None:
        """A level from any of its spellings, or the default level.

        Raises:
            BadRecord: the value is no level at all.
        """
        try:
            level = parse_level(value)
        except ValueError as error:
            raise BadRecord(f"{where}: {error}") from None
        return level or self.default_level or None

    def is_new(self, problem_id: str, where: str) -> bool:
        """Note an id; False if it was seen before and such rows are dropped."""
        first = self.ids.setdefault(problem_id, where)
        if first == where:
            return True
        return self.passes(DUPLICATE_ID, where, f"problem id {problem_id!r} was already used at {first}")

    def report(self) -> dict[str, Any]:
        """Counts and first places by kind, for the summary."""
        return {kind: {"rows": self.counts[kind], "first": self.places[kind]} for kind in ACTIONS}


def _option(kind: str) -> str:
    return "unknown_level" if kind == NO_LEVEL else kind.replace(" ", "_")
