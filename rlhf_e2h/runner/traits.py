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
    module: str = ""  # found, not declared: the module with its Config and main


_PACKAGE = Path(__file__).parents[1]
_PLACES = ("stages/*.py", "studies/*/*.py", "coding/*.py")  # where a stage may stand


def _declared(file: Path) -> Traits | None:
    text = file.read_text(encoding="utf-8")
    if "\nTRAITS = " not in text:
        return None
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "TRAITS":
            assert isinstance(node.value, ast.Call), f"{file}: TRAITS is a call of Traits with literals"
            said = {word.arg: ast.literal_eval(word.value) for word in node.value.keywords if word.arg}
            module = ".".join(file.relative_to(_PACKAGE.parent).with_suffix("").parts)
            return Traits(**said, module=module)
    return None


def _all() -> dict[str, Traits]:
    files = sorted(file for place in _PLACES for file in _PACKAGE.glob(place))
    found = {file.stem: traits for file in files if (traits := _declared(file))}
    return dict(sorted(found.items(), key=lambda item: item[1].order))


STAGES = _all()
