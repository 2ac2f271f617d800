"""The command line of `e2h plan`, apart from its work: help must not wait for torch."""

from __future__ import annotations

import argparse

_ABOUT = """\
Memory of every phase of every stage, tokens and floating-point operations, the
phase that decides and what lowers it, and the cheapest launch file under which
the stage fits. Nothing is loaded: sizes come from config.json. Rows are taken as
long as settings allow; counts that are not known before the data is read are
assumed, and the assumptions are listed.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _ABOUT
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", help="a recipe folder, for example recipes/llemma-7b-prm800k")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs of all nodes together (default 1)")
    parser.add_argument("--gpu-memory", default="80G", metavar="SIZE", help="of one GPU, for example 24G (default 80G)")
    parser.add_argument("--launches", metavar="FOLDER", help="launch files (default: those that ship)")
    parser.add_argument("--tokens", metavar="PROMPT,SOLUTION", help="tokens of a problem and of a solution")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for `e2h run`")
