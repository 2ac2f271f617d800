"""A plan as tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from rlhf_e2h.runner.disk import size
from rlhf_e2h.runner.traits import STAGES


def show(plan: dict[str, Any]) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160  # of a file; the default of 80 would break every cell
    gpus = f"{plan['gpus']} GPU{'s' if plan['gpus'] > 1 else ''}"
    console.print(
        f"{plan['recipe']} on {gpus} of {size(plan['gpu_memory'])} each, of which {size(plan['usable'])} are counted on"
    )
    console.print(_overview(plan))
    console.print(_phases(plan))
    for stage in plan["stages"]:
        if stage["launch"] is None or _chosen(stage)["tight"]:
            console.print(_warning(stage, plan["usable"]))
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
        if stage["launch"] and _chosen(stage)["tight"]:
            launch += " [yellow]tight[/yellow]"
        row = [stage["name"], stage["model"].rsplit("/", 1)[-1], count(stage["tokens"]), f"{stage['flops']:.1e}"]
        table.add_row(*row, *cells, launch)
    return table


def _cell(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return ""
    text = size(memory["total"])
    if memory["tight"]:
        return f"[yellow]{text} ![/yellow]"
    return text if memory["fits"] else f"[red]{text} ✗[/red]"


def _chosen(stage: dict[str, Any]) -> dict[str, Any]:
    """The memory under the launch that is proposed, or, where nothing fits, under the one that needs least."""
    memory = stage["memory"]
    return memory[stage["launch"]] if stage["launch"] else min(memory.values(), key=lambda one: one["total"])


def _phases(plan: dict[str, Any]) -> Table:
    """Memory of one GPU in each phase, the one that decides marked; and CPU memory of rank 0, and of all, at most."""
    names = list(dict.fromkeys(name for stage in plan["stages"] for name in _chosen(stage)["phases"]))
    table = Table(
        "stage", box=None, padding=(0, 1), title="memory of one GPU by phase (* decides)", title_justify="left"
    )
    for name in (*names, "CPU memory", "of all ranks"):
        table.add_column(name, justify="right")
    for stage in plan["stages"]:
        memory = _chosen(stage)
        cells = [
            "" if name not in memory["phases"] else size(memory["phases"][name]) + " *" * (name == memory["phase"])
            for name in names
        ]
        table.add_row(stage["name"], *cells, size(memory["host"]), size(memory["host_of_all"]))
    return table


def _parts(plan: dict[str, Any]) -> Table:
    """What is in memory in the phase that decides, under the launch that is proposed, and what lowers it."""
    table = Table("stage", "decides", "memory of one GPU by part", "to lower it", box=None, padding=(0, 1))
    for stage in plan["stages"]:
        memory = _chosen(stage)
        parts = sorted(memory["parts"].items(), key=lambda item: -item[1])
        text = ", ".join(f"{part} {size(value)}" for part, value in parts if value >= 0.005 * memory["total"])
        table.add_row(stage["name"], memory["phase"], text, stage["advice"])
    return table


def _warning(stage: dict[str, Any], usable: float) -> str:
    memory = _chosen(stage)
    name = next(name for name, one in stage["memory"].items() if one is memory)
    largest = max(memory["parts"], key=lambda part: memory["parts"][part])
    if stage["launch"]:
        return (
            f"[yellow]{stage['name']}: tight, {size(memory['total'])} of {size(usable)} ({memory['phase']}); to be "
            f"safe: {stage['advice']}[/yellow]"
        )
    return (
        f"[red]{stage['name']}: needs {size(memory['total'])} at least ({name}, {memory['phase']}), {size(usable)} are "
        f"there; most of it is {largest}: {stage['advice']}[/red]"
    )


def count(value: float) -> str:
    """A number of tokens: 3.2 M."""
    for unit, factor in ((" T", 1e12), (" G", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.0f}"
