"""`e2h plan`: what a recipe will need, before anything is loaded."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from rlhf_e2h.runner import packaged
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.recipe import Recipe, load_recipe
from rlhf_e2h.tools.plan.advice import advice, weights_fill
from rlhf_e2h.tools.plan.common import StagePlan
from rlhf_e2h.tools.plan.data import token_numbers
from rlhf_e2h.tools.plan.launches import parse_size, read_forms
from rlhf_e2h.tools.plan.memory import Form
from rlhf_e2h.tools.plan.phases import deciding
from rlhf_e2h.tools.plan.stages import plan_stage

CONTEXT = 1e9  # bytes of a CUDA context and its libraries
USABLE = 0.92  # share of the rest that an allocator fills before fragments stop it
TIGHT = 0.9  # share of what is usable above which a plan is tight: closer to the limit than plans are to measurements


def run(args: argparse.Namespace) -> int:
    """Print the plan; 0 if every stage fits somewhere, 1 if one does not."""
    if args.gpus < 1:
        raise ConfigError(f"--gpus {args.gpus}: at least 1 is needed")
    memory = parse_size(args.gpu_memory)
    launches = Path(args.launches) if args.launches else packaged.shipped("launch")
    plan = make_plan(
        load_recipe(args.recipe, args.overrides),
        args.gpus,
        memory,
        launches,
        _tokens(args.tokens),
    )
    if args.json:
        print(json.dumps(plan, indent=2))
    else:
        from rlhf_e2h.tools.plan.printing import show

        show(plan)
    return 0 if all(stage["launch"] for stage in plan["stages"]) else 1


def make_plan(
    recipe: Recipe, gpus: int, memory: float, launches: Path, tokens: tuple[int | None, int | None] = (None, None)
) -> dict[str, Any]:
    """The plan of a recipe as plain data; `launch` of a stage is None where nothing fits."""
    numbers = token_numbers(recipe, *tokens)
    forms = [
        form for form in read_forms(launches, gpus) if (form.kind == "single") == (gpus == 1) or form.offload_optimizer
    ]
    limit = (memory - CONTEXT) * USABLE
    stages, unplanned = [], []
    optional = [spec.name for spec in recipe.stages.values() if spec.optional]
    if optional:
        numbers.assume(f"optional stages are not run: {', '.join(optional)}")
    for spec in recipe.stages.values():
        if spec.optional:
            continue
        planned = plan_stage(recipe, spec, numbers)
        if planned:
            stages.append(_entry(planned, forms, limit, memory))
        elif spec.traits.runs_model:
            unplanned.append(spec.name)
    return {
        "recipe": recipe.settings.name,
        "gpus": gpus,
        "gpu_memory": memory,
        "usable": limit,
        "seeds": len(recipe.settings.seeds),
        "stages": stages,
        "tokens": sum(stage["tokens"] for stage in stages) * len(recipe.settings.seeds),
        "flops": sum(stage["flops"] for stage in stages) * len(recipe.settings.seeds),
        "assumed": numbers.assumed,
        "unplanned": unplanned,
    }


def _entry(plan: StagePlan, forms: list[Form], limit: float, memory: float) -> dict[str, Any]:
    tried = forms if plan.trains else [Form("single")]
    found = {form.name: _memory(plan, form, limit, memory) for form in tried}
    fitting = [form for form in tried if found[form.name]["fits"]]
    # room to spare before low cost, but a tight plan on the GPU before one that carries states to the CPU and back
    fitting.sort(key=lambda form: (form.offload_optimizer, found[form.name]["tight"]))
    chosen = fitting[0].name if fitting else None
    entry = {field.name: getattr(plan, field.name) for field in dataclasses.fields(plan)}
    for name in ("phases", "assumed"):
        entry.pop(name)
    decides = found[chosen] if chosen else min(found.values(), key=lambda one: one["total"])
    hint = advice(plan.kind, decides["phase"], decides["parts"], weights_fill(decides["parts"], limit))
    return {**entry, "launch": chosen, "memory": found, "advice": hint}


def _memory(plan: StagePlan, form: Form, limit: float, memory: float) -> dict[str, Any]:
    phases = plan.phases(form, memory)
    most = deciding(phases)
    return {
        "phase": most.name,
        "parts": most.parts,
        "total": most.total,
        "fits": most.total <= limit,
        "tight": TIGHT * limit < most.total <= limit,
        "phases": {phase.name: phase.total for phase in phases},
        "host": max(phase.host_of(1) for phase in phases),
        "host_of_all": max(phase.host_of(form.processes) for phase in phases),
    }


def _tokens(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    first, _, second = text.partition(",")
    if not (first.strip().isdigit() and second.strip().isdigit()):
        raise ConfigError(f"--tokens {text!r}: write PROMPT,SOLUTION, for example --tokens 110,260")
    return int(first), int(second)
