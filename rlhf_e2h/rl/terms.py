"""Reward terms beside reward models and checker: a Python function of the user's, length, format."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.rl.rewards import Completion, Reward
from rlhf_e2h.runner.config import setting

# gets completions; gives a number for each, or a list with a number for each token of it
RewardFunction = Callable[[Sequence[Completion]], Sequence[Any]]


@dataclass
class RewardTerms:
    """Terms that are added to whatever else gives a reward; they stand on the last token, a list on its tokens."""

    function: str | None = None  # MODULE:FUNCTION; one number a completion, or one a token of it
    function_scale: float = 1.0
    length_coef: float = 0.0  # lost for each token below min_tokens or above max_tokens
    min_tokens: int = 0
    max_tokens: int | None = None
    format_penalty: float = 0.0  # lost by a finished completion without an answer, or with an empty step
    # lost times 0, .5, .75 or 1, by how clearly the solution arrives at the answer that it states (the paper's code: 1)
    stop_penalty: float = setting(0.0, added=True)

    def __post_init__(self) -> None:
        if self.function is not None:
            load_function(self.function)
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise ValueError(f"max_tokens {self.max_tokens} is below min_tokens {self.min_tokens}; swap them")
        if self.length_coef and not self.min_tokens and self.max_tokens is None:
            raise ValueError(f"length_coef {self.length_coef} needs min_tokens or max_tokens")


def load_function(path: str) -> RewardFunction:
    """The function of `MODULE:FUNCTION`.

    Raises:
        ValueError: no such module or function; says where modules are looked for.
    """
    module_name, colon, name = path.partition(":")
    if not colon or not module_name or not name:
        raise ValueError(f"reward function {path!r} is no MODULE:FUNCTION; write for example my_rewards:brevity")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"reward function {path!r}: {error}; its folder must be on PYTHONPATH (PYTHONPATH=FOLDER e2h run ...)"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        kind = "has no such name" if function is None else f"has a {type(function).__name__} of this name"
        raise ValueError(f"reward function {path!r}: {module.__file__} {kind}; give the name of a function there")
    return function


def add_terms(
    terms: RewardTerms, completions: Sequence[Completion], rewards: Sequence[Reward], text_format: TextFormat = SECTIONS
) -> None:
    """Add the terms to `rewards`, in place.

    Raises:
        ValueError: the function raises, or gives something that is not a finite number a completion or a token; names
            the function and the problem.
    """
    if terms.function is not None:
        for reward, value in zip(rewards, call_function(terms.function, completions), strict=True):
            scaled = [terms.function_scale * v for v in value] if isinstance(value, list) else None
            if scaled is None:
                assert isinstance(value, float)
                reward.bonus += terms.function_scale * value
            else:
                reward.per_token = scaled
            reward.extras["function"] = sum(value) if isinstance(value, list) else value
    for completion, reward in zip(completions, rewards, strict=True):
        if terms.length_coef:
            lost = terms.length_coef * tokens_outside(len(completion.ids), terms.min_tokens, terms.max_tokens)
            reward.bonus -= lost
            reward.extras["length"] = -lost
        if terms.format_penalty:
            lost = terms.format_penalty * (completion.finished and not is_well_formed(completion.text, text_format))
            reward.bonus -= lost
            reward.extras["format"] = -lost
        if terms.stop_penalty:
            lost = terms.stop_penalty * stop_share(completion.text, completion.finished, text_format)
            reward.bonus -= lost
            reward.extras["stop"] = -lost


def stop_share(text: str, finished: bool, text_format: TextFormat = SECTIONS) -> float:
    """Share of the stop penalty that a completion loses: how far its work is from the answer that it states.

    0: the work has \\boxed{answer}; .5: its last step has $answer$ or $answer.$; .75: its last step has the answer
    somewhere; 1: none of these, no answer, or not finished. A format that reads boxed answers knows 0 and 1 only.
    Source: Sun et al. 2024, released code (math_utils/math_rl_utils.py).
    """
    answer = text_format.answer(text) if finished and text_format.is_marked(text) else None
    if answer is None:
        return 1.0
    steps = text_format.split_steps(text)
    if not text_format.opens_answer(steps[-1]):
        return 0.0
    last = steps[-2] if len(steps) > 1 else ""
    if any(f"\\boxed{{{answer}}}" in step for step in steps[:-1]):
        return 0.0
    if f"${answer}$" in last or f"${answer}.$" in last:
        return 0.5
    return 0.75 if answer in last else 1.0


def tokens_outside(count: int, least: int, most: int | None) -> int:
    """How many tokens are missing to `least`, or too many for `most`."""
    return max(least - count, 0) + (0 if most is None else max(count - most, 0))


def is_well_formed(text: str, text_format: TextFormat = SECTIONS) -> bool:
    """Whether a finished text has an answer and no empty step."""
    answered = text_format.is_marked(text) and text_format.answer(text) is not None
    return answered and all(step.strip() for step in text_format.split_steps(text))


def call_function(path: str, completions: Sequence[Completion]) -> list[float | list[float]]:
    """What the function of `path` gives for each completion, checked."""
    function = load_function(path)
    try:
        values = list(function(completions))
    except Exception as error:
        culprit = _first_that_fails(function, completions)
        raise ValueError(f"reward function {path} raised {type(error).__name__}: {error}; on {culprit}") from error
    if len(values) != len(completions):
        raise ValueError(
            f"reward function {path} gave {len(values)} values for {len(completions)} completions (the first is "
            f"{_name(completions[0])}); it must give one each"
        )
    return [_checked(path, value, completion) for value, completion in zip(values, completions, strict=True)]


def _first_that_fails(function: RewardFunction, completions: Sequence[Completion]) -> str:
    for completion in completions:
        try:
            list(function([completion]))
        except Exception:  # the same error again, now with a completion to blame
            return _name(completion)
    return f"a batch of {len(completions)} completions, though on none of them alone"


def _checked(path: str, value: Any, completion: Completion) -> float | list[float]:
    value = value.tolist() if hasattr(value, "tolist") else value  # arrays and tensors
    if isinstance(value, (list, tuple)):
        if len(value) != len(completion.ids):
            raise ValueError(
                f"reward function {path} gave {len(value)} values for the {len(completion.ids)} tokens of "
                f"{_name(completion)}; give one number, or one a token (end of sequence included)"
            )
        return [_number(path, item, completion) for item in value]
    return _number(path, value, completion)


def _number(path: str, value: Any, completion: Completion) -> float:
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"reward function {path} gave {value!r} for {_name(completion)}; it must be a finite number")
    return float(value)


def _name(completion: Completion) -> str:
    return f"problem {completion.row.get('problem_id', '?')!r} (completion {completion.text[:60]!r})"
