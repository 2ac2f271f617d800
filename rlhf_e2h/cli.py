"""The command line: `e2h run RECIPE`, one command a stage, and tools."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from rlhf_e2h import __version__
from rlhf_e2h.runner.config import StageError
from rlhf_e2h.runner.traits import STAGES

_ABOUT = """\
Train reward models on easy problems; use them on hard ones without labels.

  e2h run quickstart                 the whole method, on a CPU, in minutes
  e2h sft recipes/quickstart/2_sft_easy.yaml learning_rate=1e-4
"""
_STAGES = f"stages, one command each (e2h STAGE --help): {' '.join(STAGES)}"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Every command on one line, the longest too."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=20)
        self._action_max_length = 14


def parser() -> argparse.ArgumentParser:
    """The command line; its help lists stages by name alone, so that it fits a screen."""
    top = argparse.ArgumentParser(
        prog="e2h",
        usage="e2h COMMAND ...   (e2h COMMAND --help, e2h --version)",
        description=_ABOUT,
        epilog=textwrap.fill(_STAGES, 78),
        formatter_class=_Help,
        add_help=False,
    )
    top.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)  # so that the help fits a small screen
    top.add_argument("--version", action="version", version=f"rlhf_e2h {__version__}", help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    _add_run(commands)
    _add_stages(commands)
    _add_tools(commands)
    return top


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        prog="e2h run",
        help="run a recipe: every stage that is not finished",
        description=_RUN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("recipe", nargs="?", help="a recipe folder, or the name of one that ships, for example quickstart")
    run.add_argument("--only", metavar="STAGE", help="run this stage only")
    run.add_argument(
        "--launch", metavar="FILE", help="accelerate configuration for training stages, for example launch/ddp.yaml"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="as KEY=VALUE below; model=tiny tries every stage",
    )
    run.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="seeds=[0,1], ppo.kl_coef=0.05, base=PATH, ...")


def _add_stages(commands: Any) -> None:
    for kind, traits in STAGES.items():
        about = traits.about
        stage = commands.add_parser(
            kind,
            prog=f"e2h {kind}",
            aliases=[kind.replace("_", "-")] if "_" in kind else [],
            description=f"{about[0].upper()}{about[1:]}.",
            epilog=f"Settings of this stage: `e2h {kind} --settings`.",
        )
        stage.add_argument(
            "file", nargs="?", help="a stage file of a recipe, for example recipes/quickstart/2_sft_easy.yaml"
        )
        stage.add_argument("--settings", action="store_true", help="list the settings that the YAML file may hold")
        stage.add_argument("--locked", action="store_true", help=argparse.SUPPRESS)  # started by `e2h run --launch`
        stage.add_argument(
            "overrides",
            nargs="*",
            metavar="KEY=VALUE",
            help="settings to change, for example limit=100 seed=1",
        )
        if kind == "report":
            stage.add_argument("--paper", nargs="*", metavar="RUN", help="finished runs beside the paper's tables")
            stage.add_argument("--out", metavar="FOLDER", help="with --paper: where paper.html and paper.csv go")
            stage.add_argument(
                "--setup", help="with --paper: 7b-prm800k, 7b-metamath, 34b-prm800k, 34b-metamath, 7b-apps or 34b-apps"
            )


def _add_tools(commands: Any) -> None:
    from rlhf_e2h.checker import command as check

    about = "compare answers with the symbolic checker"
    check.add_arguments(commands.add_parser("check", prog="e2h check", help=about))
    from rlhf_e2h.tools.plan import arguments as plan

    about = "memory, tokens and FLOPs of a recipe, before anything runs"
    plan.add_arguments(commands.add_parser("plan", prog="e2h plan", help=about))
    from rlhf_e2h.tools import own_recipe

    about = "copy a recipe, to change the copy"
    own_recipe.add_copy_arguments(commands.add_parser("copy", prog="e2h copy", help=about))
    about = "a recipe of your own for a model and a file of problems"
    own_recipe.add_init_arguments(commands.add_parser("init", prog="e2h init", help=about))
    from rlhf_e2h.tools.packing import command as packing

    about = "the finished stages of a run in one file"
    packing.add_pack_arguments(commands.add_parser("pack", prog="e2h pack", help=about))
    about = "a packed run on this machine, every hash checked"
    packing.add_unpack_arguments(commands.add_parser("unpack", prog="e2h unpack", help=about))
    from rlhf_e2h.tools import doctor

    about = "what this machine lacks, and what to do about it"
    doctor.add_arguments(commands.add_parser("doctor", prog="e2h doctor", help=about))
    about = 'complete words in the shell: eval "$(e2h completion bash)"'
    completion = commands.add_parser("completion", prog="e2h completion", help=about)
    completion.add_argument("shell", choices=["bash", "zsh"])
    commands.add_parser("complete").add_argument("line")  # asked by the shell; no help, so that it is not listed


_RUN_HELP = """\
Run every stage of a recipe that is not finished under its present settings.

A stage is finished if its settings, the content of its inputs, its seed and its
code version are what they were; then it is not run again. A killed run resumes
where it can: start the same command again.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (2 for a mistake of the user, 130 after Ctrl-C)."""
    top = parser()
    args, rest = top.parse_known_args(arguments)
    args.command = args.command.replace("-", "_")  # e2h weak-to-strong is the stage weak_to_strong
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not hasattr(args, "overrides")]
    if unknown:
        top.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:  # argparse stops collecting KEY=VALUE where an option stands between them
        args.overrides = [*args.overrides, *rest]
    try:
        return _dispatch(args)
    except KeyboardInterrupt:
        print("\nstopped; start the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        return _say(error)


def _say(error: Exception) -> int:
    """One sentence for what went wrong; a traceback only after it, and only where nobody foresaw the error."""
    import traceback

    from reward_models.causes import say

    if os.environ.get("E2H_TRACEBACK"):
        raise error
    sentence, foreseen = say(error)
    print(f"e2h: {sentence}", file=sys.stderr)
    if foreseen:
        return 1 if isinstance(error, StageError) else 2
    traceback.print_exception(error)
    return 1


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "check" and args.audit:
        from rlhf_e2h.tools import audit

        return audit.run(args)
    if args.command == "check":
        from rlhf_e2h.checker import command as check

        return check.run(args)
    if args.command == "completion":
        from rlhf_e2h.tools.completion import SCRIPTS

        print(SCRIPTS[args.shell], end="")
        return 0
    if args.command == "complete":
        from rlhf_e2h.tools.completion import candidates

        print("\n".join(candidates(args.line, parser())))
        return 0
    if args.command in ("copy", "init"):
        from rlhf_e2h.tools import own_recipe

        return (own_recipe.copy if args.command == "copy" else own_recipe.init)(args)
    if args.command in STAGES and (args.settings or args.file is None) and getattr(args, "paper", None) is None:
        from rlhf_e2h.runner.settings_text import settings_text

        print(settings_text(args.command), end="")
        return 0
    from rlhf_e2h.runner.quiet import quiet_libraries

    quiet_libraries()
    if args.command in ("pack", "unpack"):
        from rlhf_e2h.tools.packing import command as packing

        return packing.run(args)
    if args.command == "doctor":
        from rlhf_e2h.tools import doctor

        return doctor.run(args)
    if args.command == "plan":
        from rlhf_e2h.tools.plan import command as plan

        return plan.run(args)
    from rlhf_e2h.runner.recipe import load_recipe

    if args.command == "run" and args.recipe is None:
        return _list_recipes()
    if args.command == "run":
        from rlhf_e2h.runner.pipeline import run_recipe
        from rlhf_e2h.tools.miniature import SWITCH, tiny_overrides

        overrides = [*args.overrides, *args.set]
        if SWITCH in overrides:
            overrides = tiny_overrides(args.recipe, overrides)
        report = run_recipe(load_recipe(args.recipe, overrides), args.only, args.launch)
        if report:
            from rlhf_e2h.stages.report import show

            show(report)
        return 0
    if args.command == "report" and args.paper is not None:
        from rlhf_e2h.report.paper_page import make_paper, show_paper

        show_paper(make_paper(args.paper, args.out, args.setup))
        return 0
    return _run_stage_file(args)


def _list_recipes() -> int:
    """What a bare `e2h run` says: the recipes that ship, a line each."""
    from rlhf_e2h.runner import packaged
    from rlhf_e2h.runner.config import read_yaml

    print("Which recipe? These ship (e2h run NAME); a folder of yours will do as well:\n")
    for name in packaged.names("recipes"):
        about = read_yaml(packaged.shipped("recipes") / name / "recipe.yaml").get("description", "")
        print(f"  {name:<20} {about}")
    print("\ne2h copy NAME FOLDER takes a copy to change; e2h init FOLDER makes one for your model and data.")
    return 2


def _run_stage_file(args: argparse.Namespace) -> int:
    import contextlib

    from rlhf_e2h.parallel import gpus
    from rlhf_e2h.parallel.processes import is_main, launched_with_deepspeed
    from rlhf_e2h.runner import operator_locks
    from rlhf_e2h.runner.mirrors import check_mirrors
    from rlhf_e2h.runner.pipeline import planned
    from rlhf_e2h.runner.progress import console
    from rlhf_e2h.runner.publish import check_publishing, publish
    from rlhf_e2h.runner.recipe import load_recipe, stage_name
    from rlhf_e2h.runner.run_files import lock
    from rlhf_e2h.runner.runs import run_stage
    from rlhf_e2h.runner.store import Store

    note = gpus.keep_one()
    if launched_with_deepspeed() and is_main():
        operator_locks.check()
    recipe = load_recipe(args.file, args.overrides, only_kind=args.command)
    store, spec = Store(recipe), recipe.stages[stage_name(args.file)]
    console.quiet = console.quiet or not is_main()  # of many processes one holds the lock and speaks
    if note and not args.locked:
        console.print(note)
    check_mirrors(recipe.settings)
    check_publishing([spec])
    with lock(store.root) if is_main() and not args.locked else contextlib.nullcontext():
        if is_main() and not args.locked:
            store.note_places()
        for _, seed in planned(recipe, spec.name):
            folder = store.finished(spec, seed)
            console.print(f"{spec.name}: {'finished before' if folder else 'running'}, seed {seed}")
            if folder and is_main():
                publish(recipe, spec, seed, folder)
            console.print(f"{spec.name}: {folder or run_stage(store, spec, seed)}")
    return 0


def entry() -> None:
    from rlhf_e2h.parallel.processes import leave

    leave(main())
