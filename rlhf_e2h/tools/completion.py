"""Completion in the shell: `eval "$(e2h completion bash)"`. The shell asks `e2h complete LINE` for the words that fit.

Recipes, stages, launch files and settings are known by their files, so nothing heavy is imported; where nothing fits
the shell completes files.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rlhf_e2h.runner import packaged
from rlhf_e2h.runner.settings_text import setting_names
from rlhf_e2h.runner.traits import STAGES

RECIPE_COMMANDS = ("run", "plan", "copy")  # their first word is a recipe
SCRIPTS = {
    "bash": """\
_e2h() {
  local IFS=$'\\n'
  COMPREPLY=($(e2h complete "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
  [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o bashdefault -o default -F _e2h e2h
""",
    "zsh": """\
_e2h() {
  local -a found
  found=(${(f)"$(e2h complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
  (( ${#found} )) || { _files; return }
  compadd -S '' -- ${(M)found:#*=}
  compadd -- ${found:#*=}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _e2h e2h
""",
}


def candidates(line: str, top: argparse.ArgumentParser) -> list[str]:
    """What may stand where a command line ends; `top` is the parser of all commands."""
    words = line.split(" ")[1:]
    before, started = [word for word in words[:-1] if word], words[-1] if words else ""
    if not before:
        found: Iterator[str] = iter(_parsers(top))
    elif started.startswith("-"):
        found = _options(top, before[0])
    elif before[-1] == "--launch":
        found = iter(packaged.names("launch"))
    elif before[-1] == "--only":
        found = (file.stem.partition("_")[2] or file.stem for file in _stage_files(before))
    elif before[0] in RECIPE_COMMANDS and len(before) == 1:
        found = iter(packaged.names("recipes"))
    elif before[0] == "completion":
        found = iter(SCRIPTS)
    else:
        found = _settings(before)
    return sorted({word for word in found if word.startswith(started)})


def _parsers(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    action = next(one for one in top._actions if isinstance(one, argparse._SubParsersAction))
    return {name: one for name, one in action.choices.items() if name != "complete"}


def _options(top: argparse.ArgumentParser, command: str) -> Iterator[str]:
    if command in (found := _parsers(top)):
        actions = (one for one in found[command]._actions if one.help != argparse.SUPPRESS)
        yield from (option for one in actions for option in one.option_strings)


def _settings(before: list[str]) -> Iterator[str]:
    """Settings as KEY=: of a stage, or of a recipe with those of its stages."""
    if before[0].replace("-", "_") in STAGES:
        yield from (f"{name}=" for name in setting_names(STAGES[before[0].replace("-", "_")].module))
    elif before[0] in ("run", "plan"):
        yield from (f"{name}=" for name in setting_names("rlhf_e2h.runner.recipe", "RecipeSettings"))
        yield "model=tiny"
        yield from (f"{name}=" for name in _variables(before))
        for file in _stage_files(before):
            kind = _value(file, "stage")
            if kind in STAGES:
                name = file.stem.partition("_")[2] or file.stem
                yield from (f"{name}.{setting}=" for setting in setting_names(STAGES[kind].module))


def _stage_files(before: list[str]) -> list[Path]:
    """The stage files of the recipe that the line names."""
    folder = packaged.find("recipes", next(iter(before[1:]), ""))
    return sorted(file for file in folder.glob("*.yaml") if file.name != "recipe.yaml")


def _variables(before: list[str]) -> list[str]:
    from rlhf_e2h.runner.config import read_yaml

    file = packaged.find("recipes", next(iter(before[1:]), "")) / "recipe.yaml"
    return list(read_yaml(file).get("variables") or {}) if file.is_file() else []


def _value(file: Path, name: str) -> str:
    """A top-level text of a YAML file, found without parsing it: completion should not wait."""
    lines = (line.partition(":") for line in file.read_text(encoding="utf-8").splitlines())
    return next((value.partition("#")[0].strip() for key, _, value in lines if key == name), "")
