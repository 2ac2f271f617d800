"""What each stage is: said once, in the stage's own file beside its `VERSION`, and read by everything else.

    VERSION = 2
    TRAITS = Traits(order=30, about="fine-tune a policy on written solutions (TRL)", trains=True)

The help of the command line, the firewall, preflight, the report and `model=tiny` need these facts, and none of them
may wait for torch. So the values are literals, taken from the source without importing it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Traits:
    """The facts about a kind of stage."""

    order: int  # where it stands as data flows; for help and tables
    about: str  # one line of help
    trains: bool = False  # makes weights or prompts, so that what it reads, its output depends on
    distributed: bool = False  # `--launch` starts it on many processes
    runs_model: bool = True  # has something for `e2h plan` to count
    # may read sealed labels: never, for evaluation unless another purpose is named, or for evaluation if it is named
    sealed_labels: Literal["never", "evaluation", "named"] = "never"
    seeded: bool = True  # its output differs by seed
    all_seeds: bool = False  # one run reads its inputs of every seed
    tiny: Mapping[str, Any] = field(default_factory=dict)  # settings under `model=tiny`


def _declared(file: Path) -> Traits | None:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "TRAITS":
            assert isinstance(node.value, ast.Call), f"{file}: TRAITS is a call of Traits with literals"
            return Traits(**{word.arg: ast.literal_eval(word.value) for word in node.value.keywords if word.arg})
    return None


def _all() -> dict[str, Traits]:
    files = sorted((Path(__file__).parent / "stages").glob("*.py"))
    found = {file.stem: traits for file in files if (traits := _declared(file))}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


STAGES = _all()
