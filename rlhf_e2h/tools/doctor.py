"""`e2h doctor`: what a machine has and lacks for running recipes, and what to do about each finding.

Nothing is downloaded and no secret is shown: for accounts only whether a login exists is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rlhf_e2h.runner.mirrors import has_wandb_key
from rlhf_e2h.runner.store import ASSETS

Level = Literal["ok", "note", "problem"]
MINIMUM_DISK, LARGE_DISK = 2, 200  # GiB: the quickstart; weights, checkpoints and samples of a 7B recipe
HUB_SECONDS = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. A "note" limits what can be run; a "problem" stops everything."""

    what: str
    level: Level
    detail: str
    fix: str = ""

    def __post_init__(self) -> None:
        assert self.level == "ok" or self.fix, f"{self.what}: a finding without a fix helps nobody"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="findings as JSON")
    command.add_argument("--offline", action="store_true", help="do not ask the hub")


def run(args: argparse.Namespace) -> int:
    """Print the findings; 1 if there is a problem."""
    findings = list(examine(offline=args.offline))
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.level:<8} {finding.what:<12} {finding.detail}")
            if finding.fix:
                print(f"{'':<21} -> {finding.fix}")
    return int(any(finding.level == "problem" for finding in findings))


def examine(offline: bool = False) -> Iterator[Finding]:
    """Every finding, in the order in which a new machine is set up."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        python, packages, shipped_files, gpu, nccl, compiler, disk, memory, sandbox,
    ]  # fmt: skip
    for check in checks:
        yield from check()
    yield from hub(offline)
    yield from wandb_login()


def python() -> Iterator[Finding]:
    yield Finding("python", "ok", ".".join(map(str, sys.version_info[:3])))


def packages() -> Iterator[Finding]:
    """The requirements of the installed rlhf_e2h, extras as notes."""
    from packaging.requirements import Requirement

    wrong = 0
    extras: dict[str, list[str]] = {}
    for text in metadata.requires("rlhf_e2h") or []:
        requirement = Requirement(text)
        extra = next((e for e in _extras(text) if requirement.marker and requirement.marker.evaluate({"extra": e})), "")
        if requirement.marker and not extra and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
            fits = requirement.specifier.contains(version, prereleases=True)
        except metadata.PackageNotFoundError:
            version, fits = "not installed", False
        if fits or extra in ("pinned", "dev", "docs"):
            continue
        if extra:
            extras.setdefault(extra, []).append(f"{requirement.name} {version}")
        else:
            wrong += 1
            wanted = f"{requirement.name}{requirement.specifier}"
            yield Finding(
                requirement.name, "problem", f"{version}, needed {requirement.specifier}", f"pip install '{wanted}'"
            )
    if not wrong:
        yield Finding("packages", "ok", "every requirement is installed in a version that fits")
    for extra, lacking in extras.items():
        yield Finding(f"[{extra}]", "note", ", ".join(lacking), f"pip install 'rlhf_e2h[{extra}]' if you need it")


def _extras(requirement: str) -> list[str]:
    """The extras that the marker of a requirement names."""
    return re.findall(r"""extra\s*==\s*['"]([\w-]+)""", requirement)


def shipped_files() -> Iterator[Finding]:
    from rlhf_e2h.runner.packaged import names

    weights, recipes = ASSETS / "base" / "model.safetensors", names("recipes")
    if weights.is_file() and weights.stat().st_size > 100_000 and "quickstart" in recipes:
        yield Finding("base model", "ok", f"there, and {len(recipes)} recipes: {', '.join(recipes)}")
    else:
        yield Finding(
            "base model", "problem", f"{weights} or the recipes are missing or incomplete",
            "pip install --force-reinstall --no-deps rlhf_e2h (in a clone: git checkout rlhf_e2h/assets)",
        )  # fmt: skip


def gpu() -> Iterator[Finding]:
    import torch

    from reward_models.bf16 import machine_computes_bf16

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield Finding(f"gpu {index}", "ok", f"{device.name}, {device.total_memory / 2**30:.0f} GiB")
    elif shutil.which("nvidia-smi"):
        yield Finding(
            "gpu", "problem", f"nvidia-smi is here, but torch {torch.__version__} sees no GPU",
            "install the CUDA build of torch (pytorch.org, 'Get started'); compare its CUDA with `nvidia-smi`",
        )  # fmt: skip
    else:
        yield Finding(
            "gpu", "note", f"none (torch {torch.__version__})",
            "quickstart, math-smoke and `--set model=tiny` need none; for the others use a machine with one",
        )  # fmt: skip
    if not machine_computes_bf16():
        where = "GPU" if torch.cuda.is_available() else "processor"
        yield Finding(
            "bf16", "note", f"this {where} has no instructions for it: bf16=auto computes in float32",
            "nothing; with bf16=true it would be many times slower",
        )  # fmt: skip


def nccl() -> Iterator[Finding]:
    import torch
    import torch.distributed as distributed

    if not torch.cuda.is_available():
        return
    if distributed.is_nccl_available():
        yield Finding("nccl", "ok", ".".join(map(str, torch.cuda.nccl.version())))
    else:
        yield Finding("nccl", "problem", "this torch has no NCCL", "install the Linux CUDA build of torch")
    shared = shutil.disk_usage("/dev/shm").total / 2**30 if Path("/dev/shm").is_dir() else 0
    if torch.cuda.device_count() > 1 and shared < 1:
        yield Finding(
            "/dev/shm", "problem", f"{shared:.2f} GiB shared memory for {torch.cuda.device_count()} GPUs",
            "start the container with --shm-size=16g, or with --ipc=host",
        )  # fmt: skip


def compiler() -> Iterator[Finding]:
    """Locks at which DeepSpeed would wait for ever."""
    from rlhf_e2h.runner import operator_locks

    found = operator_locks.abandoned(operator_locks.build_folder())
    if found:
        yield Finding("deepspeed", "problem", operator_locks.describe(found), operator_locks.advice(found))


def disk() -> Iterator[Finding]:
    from huggingface_hub import constants

    for what, place in (("disk (runs)", Path.cwd()), ("disk (hub)", Path(constants.HF_HUB_CACHE))):
        existing = next(folder for folder in (place, *place.parents) if folder.is_dir())
        free = shutil.disk_usage(existing).free / 2**30
        detail = f"{free:.0f} GiB free at {existing}"
        if not os.access(existing, os.W_OK):
            fix = "set HF_HOME to a folder of yours" if "hub" in what else "run in a folder of yours, or give runs=PATH"
            yield Finding(what, "problem", f"{existing} cannot be written", fix)
        elif free < MINIMUM_DISK:
            yield Finding(what, "problem", detail, "free some, or set HF_HOME / runs=PATH to a larger disk")
        elif free < LARGE_DISK:
            yield Finding(
                what, "note", detail, f"enough for small recipes; 7B needs {LARGE_DISK} GiB: set HF_HOME / runs=PATH"
            )
        else:
            yield Finding(what, "ok", detail)


def memory() -> Iterator[Finding]:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    if total < 3:
        yield Finding("memory", "problem", f"{total:.1f} GiB", "the quickstart needs 3 GiB; use a larger machine")
    else:
        yield Finding("memory", "ok", f"{total:.0f} GiB, {cores} cores")


def sandbox() -> Iterator[Finding]:
    from rlhf_e2h.coding.sandbox import SandboxUnavailable, run_program

    try:
        result = run_program("print(6 * 7)")
    except SandboxUnavailable as error:
        yield Finding("sandbox", "note", "programs cannot be isolated (recipe apps-orm)", str(error))
        return
    if result.output == "42\n":
        yield Finding("sandbox", "ok", "programs can be isolated (recipe apps-orm)")
    else:
        yield Finding("sandbox", "note", f"a test program ended with {result.status}", result.message or "see apps-orm")


def hub(offline: bool) -> Iterator[Finding]:
    import huggingface_hub
    from huggingface_hub import constants

    local = "give model folders (base=PATH) and data files; nothing else is fetched"
    if offline or constants.HF_HUB_OFFLINE:
        yield Finding("hub", "note", "not asked (offline)", local)
        return
    try:
        huggingface_hub.HfApi().model_info("EleutherAI/llemma_7b", timeout=HUB_SECONDS)
    except Exception as error:  # every reason why the hub cannot be had is a finding, not a crash
        yield Finding("hub", "note", f"{constants.ENDPOINT}: {type(error).__name__}", f"without it {local}")
        return
    login = "logged in" if huggingface_hub.get_token() else "no login (gated models need `hf auth login`)"
    yield Finding("hub", "ok", f"{constants.ENDPOINT} answers; {login}")


def wandb_login() -> Iterator[Finding]:
    if metadata_version("wandb") is None:
        yield Finding("wandb", "note", "not installed", "pip install 'rlhf_e2h[wandb]' to mirror runs; not needed")
    elif has_wandb_key():
        yield Finding("wandb", "ok", f"{metadata_version('wandb')}, logged in")
    else:
        yield Finding("wandb", "note", "no login", "`wandb login`, or `wandb: {mode: offline}` in recipe.yaml")


def metadata_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
