"""Tokens of thoughts: a stage that samples from a model that thinks decodes them on top of `max_new_tokens`."""

from __future__ import annotations

import dataclasses
from typing import Any

from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.text_formats import read_format
from rlhf_e2h.tools.plan.data import Numbers


def with_thoughts(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> tuple[StageSpec, Numbers]:
    """The stage with the tokens that it may really decode as its `max_new_tokens`, and solutions of that length.

    Unchanged where nothing thinks. Thoughts are taken to fill their limit, and to be read wherever solutions are.
    """
    config: Any = spec.config
    decoding = getattr(config, "decoding", None)
    holder = config if decoding is None else decoding
    extra = _thinking(recipe, config)
    if not extra or not hasattr(holder, "max_new_tokens"):
        return spec, numbers
    numbers.assume(f"{spec.name}: thoughts fill their {extra:,} tokens (max_thinking_tokens), and count as solution")
    solution = min(numbers.solution, holder.max_new_tokens) + extra
    raised: Any = dataclasses.replace(holder, max_new_tokens=holder.max_new_tokens + extra)
    config = raised if decoding is None else dataclasses.replace(config, decoding=raised)
    return dataclasses.replace(spec, config=config), dataclasses.replace(numbers, solution=solution)


def _thinking(recipe: Recipe, config: Any) -> int:
    """`max_thinking_tokens` of a stage's format: its own, else that of the policy it reads; of several the most."""
    settings = getattr(config, "format", None)
    if settings is not None and settings.name != "auto":
        return int(settings.max_thinking_tokens) if settings.name in ("chat", "template") else 0
    policies = getattr(config, "policies", None)
    references = list(policies.values()) if isinstance(policies, dict) else [getattr(config, "policy", None)]
    return max((_of_policy(recipe, reference) for reference in references if reference), default=0)


def _of_policy(recipe: Recipe, reference: str) -> int:
    if reference.startswith("@"):
        return _thinking(recipe, recipe.stages[reference[1:].split("/")[0]].config)
    saved = None if reference.startswith("asset:") else read_format(reference)
    return saved.max_thinking_tokens if saved else 0
