"""Run folders and stage identity: what is finished, what may be reused, and what each stage has read.

A stage writes to `RUN/STAGE/IDENTITY/`. The identity is a hash of the settings that change its result, of the content
of its inputs, of its seed and of the code version it declares; so changed settings get another folder and never reuse
old outputs, and changing them back finds the old folder again. `done.json` is written last: a folder without it is
unfinished.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_e2h import processes
from rlhf_e2h.config import ConfigError, input_fields, result_settings
from rlhf_e2h.data import firewall
from rlhf_e2h.environment import forget_accelerate_state
from rlhf_e2h.recipe import Recipe, StageSpec
from rlhf_e2h.tracking import Bar, Tracker, progress_bar, start_wandb

DONE = "done.json"
SETTINGS = "settings.json"
SCRATCH = "_partial"  # what a killed stage left for its own resumption; removed on completion
ASSETS = Path(__file__).parent / "assets"
_RECORDS = {DONE, SETTINGS, "metrics.jsonl"}


def write_json(path: Path, data: Any) -> None:
    """Atomic, sorted, readable."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_done(folder: Path) -> dict[str, Any] | None:
    """The completion record of a stage folder, or None if it is unfinished."""
    try:
        return json.loads((folder / DONE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def hash_tree(folder: Path) -> dict[str, str]:
    """sha256 of every output file below a stage folder, by relative path; the stage's own records are left out."""
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    names = {f.relative_to(folder).as_posix(): f for f in files}
    skip = (SCRATCH, "wandb")
    return {n: hash_file(f) for n, f in names.items() if n not in _RECORDS and n.split("/")[0] not in skip}


def hash_data(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def lock(run_folder: Path) -> Iterator[None]:
    """Hold the run folder for this process.

    Raises:
        ConfigError: another process holds it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    with (run_folder / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ConfigError(
                f"{run_folder}: in use by process {holder}; wait for it, stop it, or give another folder with runs=PATH"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@dataclass
class Resolved:
    """An input reference, found: its path, the digest of its content, and the finished stage it belongs to."""

    path: Path
    digest: str
    folder: Path | None = None
    labels: list[str] = field(default_factory=list)  # label files that it was made from


@dataclass
class StageRun:
    """What a stage's `main` gets: where to write, what to read, how to report."""

    name: str
    kind: str
    out: Path
    seed: int
    run_folder: Path
    tracker: Tracker
    inputs: dict[str, list[Resolved]]  # by reference; several where the stage spans all seeds
    is_main: bool = True
    labels_read: list[dict[str, str]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0  # read and written by models, for the report's cost table
    flops: float = 0.0

    @property
    def scratch(self) -> Path:
        """A folder that survives a killed run and is removed on completion."""
        folder = self.out / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def path(self, reference: str) -> Path:
        """The path of an input that the config names."""
        return self.inputs[reference][0].path

    def paths(self, reference: str) -> list[Path]:
        """One path a seed, for stages that span all seeds."""
        return [resolved.path for resolved in self.inputs[reference]]

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.tracker.log(metrics, step)

    def progress(self, total: float, description: str, unit: str = "items") -> contextlib.AbstractContextManager[Bar]:
        return progress_bar(total, description, unit, show=self.is_main)

    def labels(
        self, prepare_dir: Path, scope: str, purpose: str = "training", splits: Collection[str] = firewall.SPLITS
    ) -> dict[str, firewall.Label]:
        """Labels by problem id, through the firewall; every file opened is recorded with its hash."""
        firewall.check_access(self.kind, self.name, purpose, scope)
        for file in firewall.label_files(scope):
            record = {"file": file, "sha256": hash_file(prepare_dir / file), "purpose": purpose}
            if record not in self.labels_read:
                self.labels_read.append(record)
        return firewall.read_labels(prepare_dir, scope, splits)

    def finish(self, **results: Any) -> None:
        """Numbers worth showing in the run's summary and in the report."""
        self.results.update(results)

    def row(self, table: str, row: dict[str, Any]) -> None:
        """Show a row (a sample, say) in a table of wandb."""
        self.tracker.row(table, row)

    def spend(self, tokens: float, flops: float) -> None:
        """Count what a model has read or written, and the floating-point operations of it; adds up over a stage."""
        self.tokens += int(tokens)
        self.flops += float(flops)

    def manifest(self) -> list[dict[str, Any]]:
        """The completion records of all stages upstream of this one, in order of completion, each once."""
        found: dict[str, dict[str, Any]] = {}

        def visit(folder: Path) -> None:
            if str(folder) in found:
                return
            done = read_done(folder)
            assert done is not None, f"{folder} was resolved as a finished input"
            for upstream in done["upstream"]:
                visit(self.run_folder / upstream)
            found[str(folder)] = {**done, "folder": str(folder.relative_to(self.run_folder))}

        for resolved in [r for rs in self.inputs.values() for r in rs]:
            if resolved.folder:
                visit(resolved.folder)
        return list(found.values())


class Store:
    """The finished and unfinished stages of one run folder."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.root = recipe.run_folder.resolve()
        self._finished: dict[tuple[str, int], Path] = {}
        self._digests: dict[str, str] = {}  # of external inputs: hashed once a process

    def identity(self, spec: StageSpec, seed: int) -> tuple[str, dict[str, list[Resolved]]]:
        """Identity of a stage and its resolved inputs.

        Raises:
            ConfigError: an input stage has not been run.
            FileNotFoundError: an input path does not exist.
        """
        inputs = {
            reference: self._resolve(spec, reference, seed)
            for references in input_fields(spec.config).values()
            for reference in references
        }
        described = {
            "kind": spec.kind,
            "version": spec.module.VERSION,
            "settings": result_settings(spec.config),
            "inputs": {
                name: {value: [r.digest for r in inputs[value]] for value in values}
                for name, values in input_fields(spec.config).items()
            },
            "scope": firewall.allowed_scope(spec.kind, spec.name),
            "seed": stage_seed(spec, seed),
        }
        if getattr(spec.module, "ALL_SEEDS", False):
            described["seeds"] = self.recipe.settings.seeds
        return hash_data(described)[:12], inputs

    def folder(self, spec: StageSpec, identity: str) -> Path:
        return self.root / spec.name / identity

    def finished(self, spec: StageSpec, seed: int) -> Path | None:
        """The finished folder of a stage under its present settings and inputs, or None."""
        key = (spec.name, stage_seed(spec, seed))
        if key not in self._finished:
            identity, _ = self.identity(spec, seed)
            folder = self.folder(spec, identity)
            if read_done(folder) is None:
                return None
            self._finished[key] = folder
        return self._finished[key]

    def _resolve(self, spec: StageSpec, reference: str, seed: int) -> list[Resolved]:
        if not reference.startswith("@"):
            return [self._external(spec, reference)]
        name, _, inside = reference[1:].partition("/")
        upstream = self.recipe.stages[name]
        spans = getattr(spec.module, "ALL_SEEDS", False) and stage_seed(upstream, 1) == 1
        seeds = self.recipe.settings.seeds if spans else [seed]
        return [self._internal(spec, upstream, inside, one) for one in seeds]

    def _internal(self, spec: StageSpec, upstream: StageSpec, inside: str, seed: int) -> Resolved:
        folder = self.finished(upstream, seed)
        if folder is None:
            raise ConfigError(
                f"{spec.name}: its input '@{upstream.name}' is not finished for seed {seed}; "
                f"run `e2h {upstream.kind} {upstream.file}` first, or the whole recipe"
            )
        done = read_done(folder)
        assert done is not None
        files = done["files"]
        if firewall.allowed_scope(spec.kind, spec.name) == "easy":
            # A stage that may not open the sealed file must not depend on it, not even by its hash.
            files = {name: digest for name, digest in files.items() if name not in firewall.ABOUT_SEALED}
        path = folder / inside if inside else folder
        if not path.exists():
            raise ConfigError(
                f"{spec.name}: '@{upstream.name}' has no {inside!r}; it has {', '.join(sorted(files)[:8])}"
            )
        labels = sorted({record["file"] for record in done["labels_read"]} | set(done["labels_inherited"]))
        if Path(inside).name in firewall.SEALED_FILES:
            firewall.check_file(spec.kind, spec.name, inside)
            labels = sorted({*labels, firewall.SEALED_LABELS})
        return Resolved(path, hash_data(files), folder, labels)

    def _external(self, spec: StageSpec, reference: str) -> Resolved:
        if reference.startswith("asset:"):
            path = ASSETS / reference.removeprefix("asset:")
        else:
            path = Path(reference).expanduser()
        if not path.exists() and not looks_like_hub_id(reference):
            raise FileNotFoundError(
                f"{spec.file}: input {reference!r} does not exist; give a path, '@STAGE' or a hub id"
            )
        if not path.exists():
            return Resolved(Path(reference), hash_data(reference))
        key = str(path.resolve())
        if key not in self._digests:
            self._digests[key] = hash_data(hash_tree(path)) if path.is_dir() else hash_file(path)
        return Resolved(path.resolve(), self._digests[key])


def stage_seed(spec: StageSpec, seed: int) -> int:
    """The seed that a stage sees: data preparation and reports are the same for all seeds of a run."""
    return seed if getattr(spec.module, "SEEDED", True) else 0


def looks_like_hub_id(reference: str) -> bool:
    return reference.count("/") == 1 and not reference.startswith((".", "/", "~")) and not Path(reference).suffix


def run_stage(store: Store, spec: StageSpec, seed: int) -> Path:
    """Run one stage to completion (or go on with a killed one) and return its folder."""
    identity, inputs = store.identity(spec, seed)
    folder = store.folder(spec, identity)
    inherited = sorted({label for resolved in inputs.values() for r in resolved for label in r.labels})
    _check_inherited(spec, inherited)
    is_main = processes.is_main()
    if is_main:
        _clear_unfinished(folder)
    config = result_settings(spec.config)
    settings = store.recipe.settings
    wandb_run = None
    if is_main:
        write_json(folder / SETTINGS, {"stage": spec.kind, "name": spec.name, "seed": seed, **_plain(spec.config)})
        wandb_run = start_wandb(settings.wandb, settings.name, spec.name, spec.kind, seed, folder, config)
    tracker = Tracker(folder if is_main else None, wandb_run)
    run = StageRun(spec.name, spec.kind, folder, stage_seed(spec, seed), store.root, tracker, inputs, is_main)
    started = time.time()
    try:
        _fresh_process_state(run.seed)
        spec.module.main(spec.config, run)
        tracker.attach({"identity": identity, "labels_read": run.labels_read, "upstream": run.manifest()})
        processes.wait_for_all()  # or the main process would tidy up while another one still writes
    finally:
        tracker.close()
    if is_main:
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        record = {
            "stage": spec.kind,
            "name": spec.name,
            "identity": identity,
            "version": spec.module.VERSION,
            "seed": run.seed,
            "seconds": round(time.time() - started, 1),
            "tokens": run.tokens,
            "flops": run.flops,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": hash_tree(folder),
            "inputs": {ref: [r.digest for r in resolved] for ref, resolved in inputs.items()},
            "upstream": sorted(
                {str(r.folder.relative_to(store.root)) for rs in inputs.values() for r in rs if r.folder}
            ),
            "labels_read": run.labels_read,
            "labels_inherited": inherited,
            "results": run.results,
        }
        write_json(folder / DONE, record)
    return folder


def _check_inherited(spec: StageSpec, inherited: list[str]) -> None:
    trains = spec.kind in ("sft", "icl", "reward", "ppo", "dpo", "rest", "grpo", "weak_to_strong", "gap")
    if trains and firewall.SEALED_LABELS in inherited and firewall.allowed_scope(spec.kind, spec.name) == "easy":
        raise firewall.FirewallError(
            f"{spec.name}: an input was made with {firewall.SEALED_LABELS}, but this stage may depend on easy labels "
            "only; read an easy-only input, or put 'full' or 'dagger' into the stage's name if it is a baseline"
        )


def _clear_unfinished(folder: Path) -> None:
    """Start clean, except for what the stage keeps in its scratch folder to go on from."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.name == SCRATCH:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _plain(config: Any) -> dict[str, Any]:
    import dataclasses

    return dataclasses.asdict(config)


def _fresh_process_state(seed: int) -> None:
    """What a stage finds must not depend on the stages that ran before it in this process."""
    from datasets import disable_progress_bars
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours say more
    disable_progress_bars()
    forget_accelerate_state()
    set_seed(seed)
