"""A plan as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from rlhf_e2h.traits import STAGES


def show(plan: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # of a file; the default of 80 would break every cell
    gpus = f"{plan['gpus']} GPU{'s' if plan['gpus'] > 1 else ''}"
    console.print(
        f"{plan['recipe']} on {gpus} of {size(plan['gpu_memory'])} each, of which {size(plan['usable'])} are counted on"
    )
    console.print(_overview(plan))
    for stage in plan["stages"]:
        if stage["launch"] is None:
            console.print(_advice(stage, plan["usable"]))
    console.print(_parts(plan))
    runs = f" for {plan['seeds']} seeds" if plan["seeds"] > 1 else ""
    console.print(f"in all{runs}: {count(plan['tokens'])} tokens, {plan['flops']:.2g} floating-point operations")
    if plan["unplanned"]:
        console.print(f"no plan is made for: {', '.join(plan['unplanned'])}", style="dim")
    for text in plan["assumed"]:
        console.print(f"assumed: {text}", style="dim")


def _overview(plan: dict[str, Any]) -> Table:
    names = list(dict.fromkeys(name for stage in plan["stages"] for name in stage["memory"] if stage["trains"]))
    table = Table("stage", "model", box=None, padding=(0, 1))
    for title in ("tokens", "FLOPs", *names):
        table.add_column(title, justify="right")
    table.add_column("launch")
    for stage in plan["stages"]:
        if stage["trains"]:
            cells = [_cell(stage["memory"].get(name)) for name in names]
            launch = f"{stage['launch']}.yaml" if stage["launch"] else "[red]none fits[/red]"
        else:  # a process holds whole models, whatever the launch file
            cells = [_cell(stage["memory"]["single"]), *[""] * (len(names) - 1)] if names else []
            fitting = "any" if STAGES[stage["kind"]].distributed else "one process"
            launch = fitting if stage["launch"] else "[red]does not fit[/red]"
        row = [stage["name"], stage["model"].rsplit("/", 1)[-1], count(stage["tokens"]), f"{stage['flops']:.1e}"]
        table.add_row(*row, *cells, launch)
    return table


def _cell(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return ""
    text = size(memory["total"])
    return text if memory["fits"] else f"[red]{text} ✗[/red]"


def _parts(plan: dict[str, Any]) -> Table:
    """Memory by part of each stage under the launch that is proposed (or the last one tried)."""
    table = Table("stage", "peak in", "memory of one GPU by part", box=None, padding=(0, 1))
    for stage in plan["stages"]:
        name = stage["launch"] or list(stage["memory"])[-1]
        memory = stage["memory"][name]
        parts = sorted(memory["parts"].items(), key=lambda item: -item[1])
        text = ", ".join(f"{part} {size(value)}" for part, value in parts if value >= 0.005 * memory["total"])
        table.add_row(stage["name"], memory["phase"], text)
    return table


def _advice(stage: dict[str, Any], usable: float) -> str:
    name, memory = min(stage["memory"].items(), key=lambda item: item[1]["total"])
    largest = max(memory["parts"], key=lambda part: memory["parts"][part])
    hints = {
        "activations": "lower the micro-batch or max_length, or set gradient_checkpointing: true",
        "logits": "lower the micro-batch",
        "KV cache": "lower generation_batch or decoding.batch_size",
    }
    hint = hints.get(largest, "use more GPUs, LoRA (lora.rank), or a smaller model")
    return (
        f"[red]{stage['name']}: needs {size(memory['total'])} at least ({name}), {size(usable)} are there; most of it "
        f"is {largest}: {hint}[/red]"
    )


def size(value: float) -> str:
    """Bytes with a unit: 1.5 GB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value / 1e3:.0f} kB"


def count(value: float) -> str:
    """A number of tokens: 3.2 M."""
    for unit, factor in ((" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"
