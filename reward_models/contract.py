"""The step contract: how text becomes tokens, and which logits are scores.

It lives in the checkpoint's `config.json`. A reward model without its contract is a table of numbers without units: the
same weights read at another token, or behind another prompt, give confident nonsense. So the contract travels inside
the checkpoint, and a checkpoint without one is refused rather than guessed at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reward_models.aggregate import AGGREGATIONS
from reward_models.kinds import KINDS, kind_of

KEY = "step_contract"
VERSION = 2
VERSIONS = (1, 2)  # of checkpoints that can be read; each keeps the scoring positions it was trained with
READOUTS = ("step_end", "marker", "separator")
JOININGS = ("text", "steps", "pieces")
HEADS = ("linear", "mlp")
PROBLEM_SLOT = "{problem}"


@dataclass(frozen=True)
class StepContract:
    """What a caller must know to score text with a checkpoint."""

    # a key of `kinds.KINDS`. orm: outcome of the whole solution; prm: correctness of each step; oprm: both in one model
    kind: str
    # text before the solution; {problem} is replaced by the problem, nothing else is interpreted
    template: str = "# Question\n\n{problem}\n\n# Solution\n\n"
    # text between two steps
    separator: str = "\n\n"
    # step_end: the last token that holds text of the step
    # marker: the token of `marker`, which stands after every step (models of other people, see `transfer.py`)
    # separator: the token of the separator's first character; with joining "text" the last step is read at its own end
    readout: str = "step_end"
    # text after every step, the last one included; only with readout "marker"
    marker: str = ""
    # text: the whole text goes through the tokenizer at once, and nothing follows the last step
    # steps: problem and steps go through it one by one, each step with the separator after it, the last one too
    # pieces: problem, steps and markers go through it one by one (TRL)
    # empty: "steps" for models of steps, "text" for others, whose one score stands at the end of all they read
    joining: str = ""
    # a step that begins with this text runs to the end: the answer and its heading are one step
    answer_mark: str = "# Answer"
    # how the probabilities of the steps become one score; empty: that of the kind
    aggregation: str = ""
    # linear: one row on the last hidden state; mlp: Linear-ReLU-Linear (Qwen2.5-Math-PRM)
    head: str = "linear"
    version: int = VERSION

    def __post_init__(self) -> None:
        kind = kind_of(self.kind)
        _check_choice("readout", self.readout, READOUTS)
        _check_choice("head", self.head, HEADS)
        if self.version not in VERSIONS:
            raise ValueError(
                f"{KEY} has version {self.version!r}, this package reads versions 1 to {VERSION}; update reward_models"
            )
        if not self.joining:
            object.__setattr__(self, "joining", self._default_joining())
        _check_choice("joining", self.joining, JOININGS)
        if not self.aggregation:
            object.__setattr__(self, "aggregation", kind.aggregation)
        _check_choice("aggregation", self.aggregation, tuple(AGGREGATIONS))
        if PROBLEM_SLOT not in self.template:
            raise ValueError(f"template {self.template!r} has no {PROBLEM_SLOT}; the problem would never be read")
        if (self.readout == "marker") != bool(self.marker):
            raise ValueError(
                f"readout {self.readout!r} with marker {self.marker!r}; give a marker with readout 'marker'"
            )
        if not self.separator and self.readout != "marker":
            raise ValueError("separator is empty; steps would run into each other. Use for instance '\\n\\n'")
        if self.joining == "steps" and (self.version == 1 or self.marker or not self.separator):
            raise ValueError(
                f"joining 'steps' closes every step with the separator; it does not go with version {self.version}, "
                f"marker {self.marker!r} and separator {self.separator!r}"
            )

    def _default_joining(self) -> str:
        """Version 1 had whole texts only: a tokenizer that joins a full stop and the blank line after it then read
        the last step at another token than the others, and where labels say which step is last, it told the label."""
        whole = not kind_of(self.kind).steps or self.version == 1 or self.readout == "marker" or not self.separator
        return "text" if whole else "steps"

    def prompt(self, problem: str) -> str:
        """Text before the first step."""
        return self.template.replace(PROBLEM_SLOT, problem)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, for `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StepContract:
        """The inverse of `to_dict`; an unknown or missing field is a ValueError."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{KEY} has unknown field {unknown[0]!r}; known fields are {sorted(known)}")
        if "kind" not in values:
            raise ValueError(f"{KEY} has no field 'kind'; it is one of {', '.join(KINDS)}")
        return cls(**values)

    @classmethod
    def from_config(cls, config: Any, source: str = "this checkpoint") -> StepContract:
        """Read the contract of a loaded `transformers` configuration.

        Raises:
            ValueError: the checkpoint has no contract (it may be a policy, or a reward model of another library).
        """
        values = getattr(config, KEY, None)
        if values is None:
            architecture = (getattr(config, "architectures", None) or ["unknown architecture"])[0]
            raise ValueError(
                f"{source}: config.json has no {KEY!r} ({architecture}), so it does not say where scores are read. "
                "Pass a reward model trained with reward_models.train, or convert a foreign one with "
                "`python -m reward_models export --from STYLE`"
            )
        return cls.from_dict(values)

    def write_to(self, config: Any) -> None:
        """Store the contract in a `transformers` configuration, so that `save_pretrained` writes it."""
        setattr(config, KEY, self.to_dict())


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is not known; choose one of {', '.join(allowed)}")


PLAIN = StepContract("prm")  # the separator and the answer mark of texts that bring no contract
