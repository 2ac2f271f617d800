"""`e2h STAGE --settings`: what a stage file may hold, as YAML with defaults and comments.

Read from the source without importing it: a stage imports torch, and whoever asks for its settings should not wait.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rlhf_e2h.runner.traits import STAGES

_ROOT = Path(__file__).parents[2]
KINDS = ("pretrain", "sft", "reward", "ppo", "dpo", "rest", "grpo")  # stages whose output is a model folder
_COLUMN = 38  # where comments start


@dataclass
class _Source:
    """A module's text, and where its names come from."""

    lines: list[str]
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    constants: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name here -> (module, name there)


@dataclass
class _Group:
    """Settings below a setting: their class, the module it stands in, and defaults that are not those of the class."""

    module: str
    definition: ast.ClassDef
    given: dict[str, Any] = field(default_factory=dict)

    def data(self) -> dict[str, Any]:
        """The defaults as plain data."""
        found = {name: _default(module, node.value) for module, name, node in _fields(self.module, self.definition)}
        return {name: _data(self.given.get(name, value)) for name, value in found.items()}


@cache
def _source(module: str) -> _Source | None:
    place = _ROOT.joinpath(*module.split("."))
    file = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    if not file.is_file():
        return None  # a library's
    text = file.read_text(encoding="utf-8")
    found = _Source(text.split("\n"))
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef):
            found.classes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.constants[node.targets[0].id] = node.value
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return found


def _find(module: str, name: str) -> tuple[str, ast.AST] | None:
    """(module, definition) of a name that a module uses: a class or a constant."""
    source = _source(module)
    if source is None:
        return None
    if name in source.classes:
        return module, source.classes[name]
    if name in source.constants:
        return module, source.constants[name]
    return _find(*source.imports[name]) if name in source.imports else None


def settings_text(kind: str) -> str:
    """The settings of a stage as YAML; those without a default are commented as needed."""
    module = STAGES[kind].module
    source = _source(module)
    assert source is not None, f"{kind}: a stage without a file"
    lines = [f"stage: {kind}", *_lines(_Group(module, source.classes["Config"]), "")]
    lines += [_commented("# optional: true", "run only where --only names it")]
    lines += [_commented("# push_to_hub: USER/NAME", "upload the model that the stage makes, with a card")] * (
        kind in KINDS
    )
    return "\n".join(lines) + "\n"


def setting_names(module: str, name: str = "Config") -> list[str]:
    """The settings of a class by name, those below a setting as `engine.name`."""
    found = _find(module, name)
    assert found is not None and isinstance(found[1], ast.ClassDef), f"{module} has no class {name}"
    return list(_names(_Group(found[0], found[1]), ""))


def _names(group: _Group, before: str) -> Iterator[str]:
    for module, name, node in _fields(group.module, group.definition):
        default = group.given.get(name, _default(module, node.value))
        if isinstance(default, _Group):
            yield from _names(default, f"{before}{name}.")
        else:
            yield before + name


def _fields(module: str, definition: ast.ClassDef) -> Iterable[tuple[str, str, ast.AnnAssign]]:
    """(module, name, definition) of the settings of a class, those of its bases first, each as it was last defined."""
    fields: dict[str, tuple[str, str, ast.AnnAssign]] = {}
    for base in definition.bases:
        found = _find(module, base.id) if isinstance(base, ast.Name) else None
        if found and isinstance(found[1], ast.ClassDef):
            fields |= {name: (place, name, node) for place, name, node in _fields(found[0], found[1])}
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if not ast.unparse(node.annotation).startswith("ClassVar"):
            fields[node.target.id] = (module, node.target.id, node)
    return fields.values()


def _lines(group: _Group, indent: str) -> Iterator[str]:
    fields = _fields(group.module, group.definition)  # needed ones first, then its own, then inherited ones
    for module, name, node in sorted(fields, key=lambda field: (field[2].value is not None, field[0] != group.module)):
        source = _source(module)
        assert source is not None
        for above in _comment_above(source, node):
            yield f"{indent}# {above}"
        note = "; ".join(filter(None, (_choices(module, node.annotation), _comment_beside(source, node))))
        default = group.given.get(name, _default(module, node.value))
        if node.value is None and name not in group.given:
            yield _commented(f"{indent}{name}:", "; ".join(filter(None, ("needed", note))))
        elif isinstance(default, _Group):
            yield _commented(f"{indent}{name}:", note)
            yield from _lines(default, indent + "  ")
        else:
            yield _commented(f"{indent}{name}: {_inline(default)}", note)


def _inline(value: Any) -> str:
    style = '"' if isinstance(value, str) and "\n" in value else None
    shown = yaml.safe_dump(_data(value), default_flow_style=True, default_style=style, width=10_000, allow_unicode=True)
    return shown.strip().removesuffix("...").strip()


def _data(value: Any) -> Any:
    if isinstance(value, _Group):
        return value.data()
    return {key: _data(item) for key, item in value.items()} if isinstance(value, dict) else value


def _commented(text: str, note: str) -> str:
    return f"{text:<{_COLUMN}} # {note}".rstrip() if note else text


def _choices(module: str, annotation: ast.expr) -> str:
    """The values of a Literal, in words."""
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and (found := _find(module, node.id)) and isinstance(found[1], ast.Subscript):
            return _choices(found[0], found[1])
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
            options = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            return " | ".join(str(ast.literal_eval(option)) for option in options)
    return ""


def _default(module: str, node: ast.AST | None) -> Any:
    """A default as plain data, or a group of settings."""
    if node is None:
        return None
    if isinstance(node, ast.Call):
        return _from_call(module, node)
    if isinstance(node, ast.ClassDef):
        return _Group(module, node)
    if isinstance(node, ast.Name) and (found := _find(module, node.id)):
        return _default(*found)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):  # MODULE.NAME
        source = _source(module)
        package, name = source.imports[node.value.id] if source else ("", "")
        found = _find(f"{package}.{name}", node.attr)
        return _default(*found) if found else ast.unparse(node)
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) for key in node.keys if key is not None]
        return dict(zip(keys, (_default(module, value) for value in node.values), strict=True))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _default(module, node.left) / _default(module, node.right)
    try:
        return _plain(ast.literal_eval(ast.unparse(node)))
    except ValueError:
        return ast.unparse(node)


def _from_call(module: str, call: ast.Call) -> Any:
    name = ast.unparse(call.func)
    words = {word.arg: word.value for word in call.keywords if word.arg}
    if name in ("list", "tuple", "dict"):
        return _default(module, call.args[0]) if call.args else {} if name == "dict" else []
    found = _find(module, name)
    if found and isinstance(found[1], ast.ClassDef):  # settings with defaults of their own
        names = [field for _, field, _ in _fields(found[0], found[1])]
        given = dict(zip(names, call.args, strict=False)) | words
        return _Group(found[0], found[1], {field: _default(module, value) for field, value in given.items()})
    factory = words.get("default_factory") or words.get("factory")
    if isinstance(factory, ast.Lambda):
        return _default(module, factory.body)
    if isinstance(factory, ast.Name) and factory.id in ("list", "dict"):
        return [] if factory.id == "list" else {}
    return _default(module, factory or words.get("default") or (call.args[0] if call.args else None))


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _comment_beside(source: _Source, node: ast.AnnAssign) -> str:
    lines = source.lines[node.lineno - 1 : node.end_lineno]
    return " ".join(line.split("  # ", 1)[1].strip() for line in lines if "  # " in line)


def _comment_above(source: _Source, node: ast.AnnAssign) -> list[str]:
    found: list[str] = []
    number = node.lineno - 2
    while source.lines[number].strip().startswith("# "):
        found.insert(0, source.lines[number].strip()[2:])
        number -= 1
    return found
