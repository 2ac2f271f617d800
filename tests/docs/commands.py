"""The commands that a Markdown file shows, and the rules by which each is checked without running it.

A fence's info string says what happens to it: `bash run` is executed by the default tests, in a clone and with the
wheel alone, `bash clone` in a clone, `bash slow` by the slow ones after a tiny quickstart, anything else is parsed by
the program's own parser. In `console` fences the lines after `$ ` are commands and the other lines are what they must
print (`...` stands for anything).
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "sh", "shell", "console")
PROGRAMS = ("e2h", "make", "pip", "python", "accelerate", "docker", "sbatch", "curl", "git", "wandb", "huggingface-cli",
            "hf", "cd", "ls", "head", "cat", "less", "export", "mkdir", "cp", "tail", "nice", "xdg-open", "du",
            "apptainer", "srun", "watch", "column", "cut", "sort", "diff", "eval", "source", "deepspeed",
            "hostfile.sh")  # fmt: skip
INLINE = re.compile(r"(e2h|make|python -m (rlhf_e2h|reward_models)|accelerate launch) \S")
PLACEHOLDER = re.compile(r"\[|\.\.\.|\b(?!KEY=)[A-Z][A-Z0-9_]{2,}\b(?!=)")
SHELL_WORDS = {"|", "&&", ";", "||", "(", ")", "&"}


@dataclass(frozen=True)
class Block:
    """One fence: where it stands, its mode (run, clone, slow or parse), and its text."""

    file: Path
    line: int
    language: str
    mode: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def markdown_files() -> list[Path]:
    places = ("README.md", "docs/*.md", "docs/*/*.md", "recipes/*/README.md", "reward_models/README.md", "launch/*.md")
    generated = {*ROOT.glob("docs/reference/settings/*.md"), *ROOT.glob("docs/recipes/*.md")}  # by docs/conf.py
    return sorted({path for place in places for path in ROOT.glob(place)} - generated)


def blocks(file: Path) -> list[Block]:
    """Fences and indented blocks with commands; other languages are kept for their own tests."""
    found = []
    for token in MarkdownIt().parse(file.read_text(encoding="utf-8")):
        if token.type not in ("fence", "code_block"):
            continue
        words = token.info.split()
        language = words[0] if words else ""
        text = token.content
        first = next((line for line in text.splitlines() if line.strip() and not line.startswith("#")), "")
        if not language and first.removeprefix("$ ").split()[:1] and _program(first) in PROGRAMS:
            language = "bash"
        mode = words[1] if len(words) > 1 and words[1] in ("run", "clone", "slow") else "parse"
        assert token.map is not None
        found.append(Block(file, token.map[0] + 1, language, mode, text))
    return found


def shell_blocks(mode: str) -> list[Block]:
    return [
        block for file in markdown_files() for block in blocks(file) if block.language in SHELLS and block.mode == mode
    ]


def inline_commands(file: Path) -> list[tuple[int, str]]:
    """(line, command) of `code` in running text that is a whole command without placeholders."""
    found = []
    for token in MarkdownIt().enable("table").parse(file.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline" and INLINE.match(child.content) and not PLACEHOLDER.search(child.content):
                found.append((token.map[0] + 1 if token.map else 0, child.content))
    return found


def command_lines(block: Block) -> list[str]:
    """The commands of a block, continued lines joined, comments left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _program(line: str) -> str:
    words = [word for word in line.removeprefix("$ ").split() if "=" not in word or not word.split("=")[0].isupper()]
    return words[0] if words else ""


def check_line(line: str) -> None:
    """Check every command of a line.

    Raises:
        AssertionError, ValueError, SystemExit: what the real parser, or a rule below, has against it.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    current: list[str] = []
    for word in [*lexer, ";"]:
        if word in SHELL_WORDS:
            if current:
                check_command(current)
            current = []
        else:
            current.append(word)


def check_command(words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z][A-Z0-9_]*=.*", words[0]):  # NAME=value before a command
        words = words[1:]
    if not words:
        return
    if words[0] in ("nice", "srun", "time"):
        return check_command(_after_options(words[1:]))
    words = [word for index, word in enumerate(words) if not _is_redirect(words, index)]
    program, rest = Path(words[0]).name, words[1:]
    assert program in PROGRAMS, f"no rule for {program!r}; add one to tests/docs/commands.py"
    if program == "python" and rest[:1] == ["-m"]:
        return _module(rest[1], rest[2:])
    rule = RULES.get(program)
    if rule:
        rule(rest)
    for word in rest:  # any file of the repository that is named must exist
        if re.match(r"(recipes|launch|docs|benchmarks|reward_models|rlhf_e2h)/[\w./-]+$", word):
            assert (ROOT / word).exists(), f"{word}: no such file"


def _after_options(words: list[str]) -> list[str]:
    while words and (words[0].startswith("-") or words[0].isdigit()):
        words = words[1:]
    return words


def _is_redirect(words: list[str], index: int) -> bool:
    return words[index] in (">", ">>", "2>", "<") or (index > 0 and words[index - 1] in (">", ">>", "2>", "<"))


def _module(name: str, rest: list[str]) -> None:
    if name == "rlhf_e2h":
        _e2h(rest)
    elif name == "reward_models":
        from reward_models.options import parser

        parser().parse_known_args(rest)
    elif name == "rlhf_e2h.tools.dashboards":
        from rlhf_e2h.tools.dashboards import parser as views_parser

        views_parser().parse_args(rest)
    else:
        assert name in ("venv", "pytest", "pip", "http.server", "json.tool"), f"no rule for python -m {name}"


def _e2h(rest: list[str]) -> None:
    from rlhf_e2h.cli import parser
    from rlhf_e2h.runner.recipe import load_recipe
    from rlhf_e2h.runner.traits import STAGES

    if len(rest) == 1:  # a command's name in running text
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                parser().parse_args([*rest, "--help"])
        except SystemExit as end:
            assert not end.code, f"e2h {rest[0]}: no such command"
        return
    args, more = parser().parse_known_args(rest)
    wrong = [word for word in more if word.startswith("-") or "=" not in word]
    assert not wrong, f"unrecognized arguments: {wrong}"
    overrides = [*getattr(args, "overrides", []), *more]
    if args.command == "run":
        recipe = load_recipe(args.recipe, overrides)
        assert args.only is None or args.only in recipe.stages, f"--only {args.only}: no such stage"
        assert args.launch is None or yaml.safe_load(Path(args.launch).read_text()), f"--launch {args.launch}"
    elif args.command in STAGES and args.file:
        load_recipe(args.file, overrides, only_kind=args.command)


def _make(rest: list[str]) -> None:
    done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def _python(rest: list[str]) -> None:
    rest = _after_options(rest)
    assert (ROOT / rest[0]).is_file(), f"{rest[0]}: no such file"
    ast.parse((ROOT / rest[0]).read_text(encoding="utf-8"))


def _pip(rest: list[str]) -> None:
    from packaging.requirements import Requirement

    assert rest[0] in ("install", "list", "show"), f"pip {rest[0]}"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for word in _after_options(rest[1:]):
        if word.startswith("-"):
            continue
        found = re.fullmatch(r"(\.|rlhf_e2h|dist/\S+)(?:\[(.+)\])?", word)
        if found:
            unknown = {name.strip() for name in (found[2] or "").split(",") if name} - set(extras)
            assert not unknown, f"pyproject.toml has no extra {unknown}"
        else:
            Requirement(word)


def _accelerate(rest: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    assert rest[0] == "launch", f"accelerate {rest[0]}"
    args = launch_command_parser().parse_args(rest[1:])
    assert args.config_file is None or yaml.safe_load((ROOT / args.config_file).read_text())
    assert args.module, "accelerate launch starts a module here: -m rlhf_e2h"
    _module(args.training_script, args.training_script_args)


def _sbatch(rest: list[str]) -> None:
    script = ROOT / _after_options(rest)[0]
    subprocess.run(["bash", "-n", str(script)], check=True)


def _shell_script(rest: list[str]) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "launch" / "hostfile.sh")], check=True)
    assert (ROOT / rest[1]).is_file(), f"{rest[1]}: no such file"


def _docker(rest: list[str]) -> None:
    assert rest[0] in ("build", "run"), f"docker {rest[0]}"


RULES = {"e2h": _e2h, "make": _make, "python": _python, "pip": _pip, "accelerate": _accelerate, "sbatch": _sbatch,
         "hostfile.sh": _shell_script, "docker": _docker}  # fmt: skip


def run_block(block: Block, folder: Path, environment: dict[str, str], timeout: float) -> None:
    """Execute a block in a scratch copy; `console` blocks are compared with what they print."""
    if block.language != "console":
        done = _bash(block.text, folder, environment, timeout)
        assert not done.returncode, f"{block.where}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return
    steps: list[tuple[str, list[str]]] = []
    for line in block.text.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        elif line.strip():
            steps[-1][1].append(line)
    for command, expected in steps:
        done = _bash(command, folder, environment, timeout)
        printed = done.stdout + done.stderr
        assert not done.returncode, f"{block.where}: {command}: exit code {done.returncode}\n{printed}"
        assert matches(expected, printed), f"{block.where}: {command}: expected\n{expected}\nprinted\n{printed}"


def matches(expected: list[str], printed: str) -> bool:
    """Whether the expected lines are those that were printed, `...` standing for any text; spacing does not count."""
    parts = [re.escape(" ".join(line.split())).replace(r"\.\.\.", ".*") for line in expected]
    pattern = "".join(part if part == ".*" else rf"(?:{part})\n" for part in parts)
    text = "".join(f"{' '.join(line.split())}\n" for line in printed.splitlines() if line.strip())
    return not expected or re.fullmatch(pattern + r"\n?" if parts[-1] != ".*" else pattern, text, re.DOTALL) is not None


def _bash(text: str, folder: Path, environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=timeout, check=False,
    )  # fmt: skip
