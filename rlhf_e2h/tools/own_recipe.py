"""A recipe of one's own: `e2h copy` takes one that ships, `e2h init` makes one from a model and a file of problems."""

from __future__ import annotations

import argparse
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rlhf_e2h.runner import packaged
from rlhf_e2h.runner.config import ConfigError, nearest

_TEMPLATES = Path(__file__).parents[1] / "assets" / "init"
LOOKED_AT = 2000  # rows that decide what the file holds
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.1


def add_copy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Copy a recipe, or the launch files (`e2h copy launch FOLDER`), to change the copy."
    parser.add_argument("recipe", help="the name of one that ships, or a folder")
    parser.add_argument("folder", help="where the copy goes; its last part becomes the recipe's name")


def add_init_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write a commented recipe for a model and a file of problems, for `e2h plan` and `e2h run`."
    parser.add_argument("folder", help="where the recipe goes; its last part becomes the recipe's name")
    parser.add_argument("--model", required=True, metavar="NAME", help="hub id or folder of a causal language model")
    parser.add_argument(
        "--data", required=True, metavar="FILE", help="problems with answers: .jsonl, .json or .parquet"
    )
    parser.add_argument("--test", metavar="FILE", help="test problems; part of --data if not given")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="0 for a CPU (default 1)")


def copy(args: argparse.Namespace) -> int:
    """Copy a recipe or the launch files and say what to run next."""
    folder = _new_folder(args.folder)
    if args.recipe == "launch":
        shutil.copytree(packaged.shipped("launch"), folder, dirs_exist_ok=True, ignore=_ignored)
        print(f"{folder}: {len(list(folder.iterdir()))} launch files; use them with --launch {folder}/zero3.yaml")
        return 0
    source = packaged.find("recipes", args.recipe)
    if not (source / "recipe.yaml").is_file():
        known = packaged.names("recipes")
        raise FileNotFoundError(f"{args.recipe}: no such recipe; {nearest(str(args.recipe), known)}")
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=_ignored)
    settings = folder / "recipe.yaml"
    text = settings.read_text(encoding="utf-8")
    # a name of its own, so that its runs do not go into the folder of the original's
    settings.write_text(re.sub(r"(?m)^name:.*$", f"name: {json.dumps(folder.name)}", text, count=1), encoding="utf-8")
    print(f"{folder}: a copy of {source.name}; change its files, then\n  e2h plan {folder}\n  e2h run {folder}")
    return 0


def _ignored(_: str, names: list[str]) -> set[str]:
    return {name for name in names if name == "__pycache__" or name.startswith(".")}


def _new_folder(given: str) -> Path:
    folder = Path(given)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: is there and not empty; give the name of a new folder")
    return folder


@dataclass
class Contents:
    """What a file of problems holds."""

    rows: int = 0
    with_solution: int = 0
    with_answer: int = 0
    with_level: int = 0
    easy: int = 0


def look(file: Path) -> Contents:
    """Count what the first rows of a file have, and all of its rows.

    Raises:
        FileNotFoundError, ValueError: the file cannot be read, or a row has no problem.
        ConfigError: no row has an answer.
    """
    from rlhf_e2h.data.files import iter_rows
    from rlhf_e2h.data.levels import EASY, parse_level
    from rlhf_e2h.data.math import last_boxed
    from rlhf_e2h.data.own_rows import answer_of, problem_text, solution_of

    found, rows = Contents(), iter_rows(file)
    for row in itertools.islice(rows, LOOKED_AT):
        problem_text(row)
        solution, level = solution_of(row), parse_level(row.fields.get("level"))
        found.rows += 1
        found.with_solution += bool(solution)
        found.with_answer += bool(answer_of(row) or last_boxed(solution))
        found.with_level += level is not None
        found.easy += level in EASY
    if not found.with_answer:
        raise ConfigError(
            f"{file}: none of the first {found.rows} rows has an answer; give a field `answer`, or a \\boxed{{}} at "
            "the end of `solution`"
        )
    looked = found.rows
    found.rows += sum(1 for _ in rows)
    found.easy = found.easy * found.rows // max(looked, 1)
    return found


def init(args: argparse.Namespace) -> int:
    """Write a recipe and say what to run next."""
    if args.gpus < 0:
        raise ConfigError(f"--gpus {args.gpus}: 0 for a CPU, or the number of GPUs")
    data, test = (Path(file).expanduser().resolve() if file else None for file in (args.data, args.test))
    assert data is not None
    for file in (data, test):
        if file is not None and not file.exists():
            raise FileNotFoundError(f"{file}: no such file; --data and --test name files of problems, a row each")
    _check_model(args.model)
    contents = look(data)
    folder = _new_folder(args.folder)
    written = {"recipe.yaml": _recipe(folder.name, args.model, data, test, contents, args.gpus)}
    written["1_prepare.yaml"] = "".join(f"{line}\n" for line in _prepare(contents, test))
    written |= _stages(learn_solutions=contents.with_solution > 0)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
    launch = " --launch zero2.yaml" if args.gpus > 1 else ""
    print(f"{folder}: {len(written) - 1} stages for {contents.rows} problems")
    for note in _notes(contents):
        print(f"  note: {note}")
    gpus_word = f" --gpus {args.gpus}" if args.gpus > 1 else ""
    print(f"next:\n  e2h plan {folder}{gpus_word}\n  e2h run {folder}{launch}")
    return 0


def _check_model(model: str) -> None:
    from rlhf_e2h.runner.store import looks_like_hub_id

    asset = model.startswith("asset:")
    if asset or (Path(model).expanduser() / "config.json").is_file():
        return
    if Path(model).expanduser().exists() or not looks_like_hub_id(model):
        raise FileNotFoundError(f"--model {model}: neither a folder with a config.json nor a hub id (OWNER/NAME)")


def _notes(contents: Contents) -> Iterator[str]:
    if not contents.with_solution:
        yield "no row has a solution, so there is no fine-tuning: the model itself samples"
    if not contents.with_level:
        yield "no row has a level, so all count as easy and none is held back as hard; give each a `level` from 1 to 5"
    elif contents.easy == contents.rows:
        yield "all levels are easy (1 to 3), so nothing is held back as hard"


def _recipe(name: str, model: str, data: Path, test: Path | None, contents: Contents, gpus: int) -> str:
    """recipe.yaml. Batches divide by the GPUs and their micro-batches."""
    processes, micro = max(1, gpus), 4
    share = processes * micro
    batch = share * max(1, round((64 if gpus else 16) / share))
    rollouts = 4 * share * max(1, round((256 if gpus else 64) / (4 * share)))
    folder = f"\n  test: {json.dumps(str(test))}" if test else ""
    machine = f"{gpus} GPU{'s' * (gpus > 1)}" if gpus else "a CPU"
    here = Path(model).expanduser()
    place = str(here.resolve()) if here.exists() else model
    return f"""\
# Made by `e2h init` for {machine}. Each stage is a file beside this one; change what you like, then
#   e2h plan FOLDER                        memory, tokens and operations, before anything runs
#   e2h run FOLDER [KEY=VALUE ...]         runs what is not finished; a setting changed runs again what depends on it
#   e2h run FOLDER --only STAGE            one stage
# `e2h STAGE --settings` lists what a stage file may hold.
name: {json.dumps(name)}
description: {json.dumps(f"{model} on {data.name}")}
seeds: [0]                 # [0, 1, 2] runs three; the report then has intervals over seeds too
# report_to: tensorboard   # mirrors metrics.jsonl to wandb, tensorboard or trackio
# push_to_hub: USER/NAME in a stage's file uploads the model that it has trained
variables:                 # used as ${{name}} in the stage files; `e2h run FOLDER base=OTHER` changes one
  base: {json.dumps(place)}   # hub id or folder
  train: {json.dumps(str(data))}{folder}
  rm_samples: {16 if gpus else 4}           # solutions a problem that the reward model learns from
  bank: {64 if gpus else 8}                 # solutions a test problem for voting and best-of-n
  new_tokens: {768 if gpus else 256}        # tokens of a sampled solution
  decode_batch: {64 if gpus else 16}        # solutions decoded together
  ppo_steps: {100 if gpus else 4}
  rollouts: {rollouts}            # solutions a PPO step, over all processes
  batch: {batch}                # sequences an update, over all processes
  micro_batch: {micro}           # at once on one GPU: lower it where memory runs out; results do not change
  bf16: auto                # where the card or processor computes it
  gradient_checkpointing: {str(gpus > 0).lower()}
"""


def _prepare(contents: Contents, test: Path | None) -> Iterator[str]:
    yield "# Splits the problems; labels of hard ones (levels above easy_levels) are sealed until `evaluate`."
    yield "stage: prepare"
    yield "source: jsonl"
    yield 'train: "${train}"'
    if test:
        yield 'test: "${test}"'
    else:
        yield "split: random            # the test set is a part of the file"
        yield f"test_size: {max(1, round(contents.rows * TEST_SHARE))}"
    yield f"validation_size: {max(1, round(contents.rows * VALIDATION_SHARE))}"
    yield "easy_levels: [1, 2, 3]"
    if not contents.with_level:
        yield "default_level: 1         # no row has a level: all count as easy. Give each one from 1 to 5 instead"
    else:
        yield "unknown_level: keep      # rows without a level are trained on as hard ones"
    yield "no_answer: drop          # rows without an answer are left out, and counted"
    yield "near_duplicates: drop    # train problems that read like a test problem"


def _stages(learn_solutions: bool) -> dict[str, str]:
    """Stage files by name. Without solutions the model itself takes the place of the fine-tuned one."""
    texts = {file.name: file.read_text(encoding="utf-8") for file in sorted(_TEMPLATES.glob("*.yaml"))}
    if learn_solutions:
        return texts
    del texts["2_sft_easy.yaml"]
    texts = {name: text.replace('"@sft_easy"', '"${base}"') for name, text in texts.items()}
    evaluate = texts["8_evaluate.yaml"].replace("sft_easy: ", "start: ")
    return texts | {"8_evaluate.yaml": evaluate + "bank_policy: start\n"}
