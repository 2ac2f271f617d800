"""YAML to dataclass: every key checked, the nearest valid one named, values converted by the field's type."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml

from reward_models.renamed import renamed

# A field with one of these types names other stages' outputs ("@sft_easy", "@sft_easy/file") or paths; the runner
# resolves and hashes them.
Input = Annotated[str, "input"]
Inputs = Annotated[list[str], "input"]
NamedInputs = Annotated[dict[str, str], "input"]


class ConfigError(ValueError):
    """A setting is wrong; the message says which, what is allowed and what to do."""


class StageError(ConfigError):
    """A process that ran a stage has ended without finishing it; what it had to say stands above."""


def setting(
    default: Any = dataclasses.MISSING, *, affects_result: bool = True, factory: Any = None, added: bool = False
) -> Any:
    """A dataclass field; `affects_result=False` keeps it out of the stage's identity (micro-batch, paths, display).

    `added` marks a setting that came later: at its default, which does what was done before, it is not in the identity
    either, so that finished stages stay finished.
    """
    metadata = {"affects_result": affects_result, "added": added}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML mapping.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: not YAML, or not a mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a YAML file")
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _OneOfEachKey)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(data).__name__}")
    return data


class _OneOfEachKey(yaml.SafeLoader):
    """A key that is given twice is an error; YAML itself says nothing, and the first one is lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen and key.value != "<<":
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint for a wrong name: the nearest valid one, or the list of all."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"


def parse_override(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with VALUE read as YAML; dots in KEY go into nested settings."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is not an override; write KEY=VALUE, for example seed=1")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        return key, value


def set_dotted(data: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at a dotted key of nested dicts, in place."""
    *parents, last = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{key}: {parent!r} has no settings below it")
    data[last] = value


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def substitute(value: Any, variables: Mapping[str, Any], where: str) -> Any:
    """Replace `${name}` and `${name:-default}` by recipe variables, else environment variables, in nested values."""
    if isinstance(value, dict):
        return {key: substitute(item, variables, where) for key, item in value.items()}
    if isinstance(value, list):
        return [substitute(item, variables, where) for item in value]
    if not isinstance(value, str):
        return value
    whole = _VARIABLE.fullmatch(value)
    if whole and whole[1] in variables:
        return variables[whole[1]]  # keeps its type

    def look_up(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = variables.get(name, os.environ.get(name, default))
        if found is None:
            raise ConfigError(f"{where}: ${{{name}}} is not set; {nearest(name, variables)}")
        return str(found)

    return _VARIABLE.sub(look_up, value)


def build(cls: type, data: Mapping[str, Any], where: str) -> Any:
    """A dataclass instance from a mapping.

    Raises:
        ConfigError: unknown key (the nearest valid one is named), missing key, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls, include_extras=False)
    values = {}
    for key, value in data.items():
        if key not in fields:
            said = renamed(str(key), fields) or f"unknown setting {key!r}; {nearest(str(key), fields)}"
            raise ConfigError(f"{where}: {said}")
        values[key] = _convert(value, hints[key], f"{where}: {key}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ConfigError(f"{where}: setting {name!r} is missing; add `{name}: ...`")
    try:
        return cls(**values)
    except ConfigError:
        raise
    except ValueError as error:  # from __post_init__: add the place
        raise ConfigError(f"{where}: {error}") from None


def _convert(value: Any, kind: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        *others, last = (a for a in args if a is not type(None))
        for kind in others:
            with contextlib.suppress(ConfigError):
                return _convert(value, kind, where)
        return _convert(value, last, where)
    if kind is Any:
        return value
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}; allowed: {', '.join(map(str, args))}")
        return value
    if dataclasses.is_dataclass(kind):
        shorthand = getattr(kind, "SHORTHAND", None)  # `format: chat` for `format: {name: chat}`
        if shorthand and isinstance(value, str):
            value = {shorthand: value}
        return build(typing.cast(type, kind), _expect(value, dict, where), where)
    if origin is list:
        return [_convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(_expect(value, list, where))]
    if origin is dict:
        return {
            _convert(k, args[0], where): _convert(v, args[1], f"{where}.{k}")
            for k, v in _expect(value, dict, where).items()
        }
    if kind is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 1e-4 as text
        except ValueError:
            raise ConfigError(f"{where} is {value!r}; a number is needed") from None
    return _expect(value, kind, where)


def _expect(value: Any, kind: type, where: str) -> Any:
    names = {dict: "`key: value` lines", list: "a list", int: "a whole number", float: "a number", str: "text"}
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where} is {value!r}; {names.get(kind, kind.__name__)} is needed")
    return value


def input_fields(config: Any) -> dict[str, list[str]]:
    """The references in every input field of a config: field name -> list of strings, unset ones left out."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    found: dict[str, list[str]] = {}
    for name, hint in hints.items():
        if "input" not in _annotations(hint):
            continue
        value = getattr(config, name)
        if isinstance(value, str) and value:
            found[name] = [value]
        elif isinstance(value, dict) and value:
            found[name] = list(value.values())
        elif isinstance(value, list) and value:
            found[name] = value
    return found


def _annotations(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) is Annotated:
        return typing.get_args(hint)[1:]
    return tuple(note for arg in typing.get_args(hint) for note in _annotations(arg))


def _result_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return result_settings(value)
    if isinstance(value, dict):
        return {key: _result_value(item) for key, item in value.items()}
    return [_result_value(item) for item in value] if isinstance(value, list) else value


def result_settings(config: Any) -> dict[str, Any]:
    """The settings that change a stage's result, as plain data: inputs and `affects_result=False` fields left out."""
    inputs = input_fields(config)
    kept = {}
    for field in dataclasses.fields(config):
        if field.name in inputs or not field.metadata.get("affects_result", True):
            continue
        value = getattr(config, field.name)
        if field.metadata.get("added") and value == _default(field):
            continue
        kept[field.name] = _result_value(value)
    return kept


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
