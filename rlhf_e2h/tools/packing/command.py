"""`e2h pack` and `e2h unpack` on the command line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_PACK = """\
Put the finished stages of a run folder into one archive, with the sha256 of every
file, so that the run resumes on another machine, or a colleague checks it there.
Models trained with LoRA go as adapters where their base gives the merged weights
again byte for byte; this is tried while packing.
"""
_UNPACK = """\
Put the stages of a pack into a run folder. Nothing is put in place before every
hash has been checked, and nothing that is finished there is written over.
"""


def add_pack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = _PACK, argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", type=Path, help="a run folder, for example runs/quickstart")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help="the archive: .tar, .tar.gz or .tgz"
    )
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    parser.add_argument("--unfinished", action="store_true", help="checkpoints of unfinished stages as well")
    parser.add_argument("--whole", action="store_true", help="merged weights as well, for a base that is not there")


def add_unpack_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = _UNPACK, argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, help="what `e2h pack` wrote")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="the run folder; runs/RECIPE if not given")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="these stages alone")
    parser.add_argument(
        "--base", type=Path, action="append", default=[], metavar="FOLDER",
        help="the model here that adapters of the pack were trained on; may be given again",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Pack or unpack, and say what came of it."""
    return _pack(args) if args.command == "pack" else _unpack(args)


def _pack(args: argparse.Namespace) -> int:
    from rich.table import Table

    from rlhf_e2h.runner.disk import size
    from rlhf_e2h.tools.packing.pack import pack

    console = _console()
    made = pack(args.run, args.out, args.only, args.unfinished, args.whole)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("stage", "identity", "files", "size", "in the pack", "weights"):
        table.add_column(name, justify="right" if name in ("files", "size", "in the pack") else "left")
    for stage in made.manifest.stages:
        state = made.weights[stage.folder] if stage.finished else "unfinished"
        count = len(stage.files) + len(stage.merged)
        table.add_row(stage.name, stage.identity, f"{count}", size(stage.bytes(True)), size(stage.bytes()), state)
    console.print(table)
    if made.unfinished:
        console.print(f"{len(made.unfinished)} unfinished stages left out ({', '.join(made.unfinished)}): --unfinished")
    if made.missing:
        console.print(f"not in the pack, though packed stages were made from it: {', '.join(made.missing)}")
    outside = sorted({reference for stage in made.manifest.stages for reference in stage.outside})
    if outside:
        console.print(f"read from outside the run, to be had there too: {', '.join(outside)}")
    files = sum(len(stage.files) for stage in made.manifest.stages)
    console.print(f"{args.out}: {len(made.manifest.stages)} stages, {files} files, {size(made.size)}, {made.digest}")
    return 0


def _unpack(args: argparse.Namespace) -> int:
    from rlhf_e2h.tools.packing.unpack import unpack

    console = _console()
    found = unpack(args.file, args.into, args.only, args.base)
    for stages, what in (
        (found.placed, "unpacked"),
        (found.here, "finished here before, the same"),
        (found.kept, "left as it is here, since it is unfinished in the pack"),
        (found.missing, "neither in the pack nor here, and read by what was unpacked: it will be run"),
    ):
        for folder in stages:
            console.print(f"{folder:<40} {what}")
    about = found.manifest.run
    commit = str((about.get("git") or {}).get("commit"))[:7]
    console.print(f"packed by rlhf_e2h {found.manifest.package} (commit {commit}); contents {found.digest}")
    words = " ".join([str(about.get("recipe")), *about.get("overrides", [])])
    console.print(
        f"there it was `e2h run {words}`; here, with the paths of this machine: e2h run RECIPE runs={found.run_folder}"
    )
    return 0


def _console() -> Any:
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160  # of a file; the default of 80 would break cells
    return console
