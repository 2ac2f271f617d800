"""Running a stage: what its `main` is given, what it has read, and the record written when it is complete.

Where its outputs go and when old ones may be reused is in store.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
import traceback
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.markup import escape

from reward_models.peft_folder import is_adapter, merged_folder
from reward_models.records import iter_jsonl
from rlhf_e2h.data import firewall
from rlhf_e2h.parallel import gpus, processes
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.runner.config import ConfigError, result_settings
from rlhf_e2h.runner.environment import forget_accelerate_state
from rlhf_e2h.runner.mirrors import About, open_mirrors
from rlhf_e2h.runner.progress import Bar, Pulse, console, progress_bar
from rlhf_e2h.runner.publish import publish
from rlhf_e2h.runner.recipe import StageSpec
from rlhf_e2h.runner.run_files import DONE, ERRORS, SCRATCH, SETTINGS, hash_file, hash_tree, read_done, write_json
from rlhf_e2h.runner.store import Resolved, Store, stage_seed
from rlhf_e2h.runner.tracking import Tracker
from rlhf_e2h.training.checkpoints import disk_errors

log = logging.getLogger(__name__)


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
    warnings: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    tokens: int = 0  # read and written by models, for the report's cost table
    flops: float = 0.0
    pulse: Pulse | None = None  # of the main process: says every so often how far the stage is

    @property
    def scratch(self) -> Path:
        """A folder that survives a killed run and is removed on completion."""
        folder = self.out / SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def path(self, reference: str) -> Path:
        """The path of an input that the config names; a PEFT folder comes merged into its base, once a run."""
        found = self.inputs[reference][0]
        if is_adapter(found.path):
            return merged_folder(found.path, self.run_folder / ".merged" / found.digest[:12])
        return found.path

    def paths(self, reference: str) -> list[Path]:
        """One path a seed, for stages that span all seeds."""
        return [resolved.path for resolved in self.inputs[reference]]

    def log(self, metrics: dict[str, Any], step: int | None = None) -> None:
        self.tracker.log(metrics, step)
        if self.pulse:
            self.pulse.note(metrics)

    def progress(self, total: float, description: str, unit: str = "items") -> contextlib.AbstractContextManager[Bar]:
        return progress_bar(total, description, unit, self.is_main, self.pulse)

    def labels(
        self, prepare_dir: Path, scope: str, purpose: str = "training", splits: Collection[str] = firewall.SPLITS
    ) -> dict[str, firewall.Label]:
        """Labels by problem id, through the firewall; every file opened is recorded with its hash."""
        self._open(prepare_dir, scope, firewall.label_files(scope), purpose)
        return firewall.read_labels(prepare_dir, scope, splits)

    def stepwise(self, prepare_dir: Path, scope: str) -> Iterator[dict[str, Any]]:
        """The rows with step labels of a scope, through the firewall, with the label files of that scope recorded.

        Raises:
            ConfigError: the prepare stage wrote no step labels.
        """
        files = {scope: firewall.stepwise_file(scope)} | ({"easy": firewall.EASY_STEPWISE} if scope == "hard" else {})
        missing = [file for file in files.values() if not (prepare_dir / file).is_file()]
        if missing:
            raise ConfigError(
                f"{self.name}: {prepare_dir.name} has no {missing[0]}; give a prepare stage with step labels"
            )
        self._open(prepare_dir, scope, (*firewall.label_files(scope), *files.values()), "training")
        easy = {row["problem"] for row in iter_jsonl(prepare_dir / files["easy"])} if scope == "hard" else set()
        return (row for row in iter_jsonl(prepare_dir / files[scope]) if row["problem"] not in easy)

    def _open(self, prepare_dir: Path, scope: str, files: Sequence[str], purpose: str) -> None:
        firewall.check_access(self.kind, self.name, purpose, scope)
        for file in files:
            record = {"file": file, "sha256": hash_file(prepare_dir / file), "purpose": purpose}
            if record not in self.labels_read:
                self.labels_read.append(record)

    def label_scope(self, *references: str) -> str:
        """none, easy or full: the widest labels that anything among these inputs was made from."""
        files = {label for reference in references for found in self.inputs[reference] for label in found.labels}
        return "full" if firewall.SEALED_LABELS in files else "easy" if firewall.EASY_LABELS in files else "none"

    def finish(self, **results: Any) -> None:
        """Numbers worth showing in the run's summary and in the report."""
        self.results.update(results)

    def warn(self, text: str) -> None:
        """Say what spoils results without stopping the stage: in the log, beneath the stage's line, in done.json."""
        if text not in self.warnings:
            self.warnings.append(text)
            if self.is_main:
                log.warning("%s: %s", self.name, text)

    def use_format(self, text_format: TextFormat, why: str) -> None:
        """Record the text format of a policy and why it is that one; said unless it is the default."""
        log.info("%s: text format %s (%s)", self.name, text_format.name, why)
        self.notes["format"] = f"{text_format.name}: {why}"
        if text_format.name != SECTIONS.name:
            self.finish(format=text_format.name)
            if self.is_main:
                console.print(f"[dim]{self.name}: text format {text_format.name}, since {escape(why)}[/dim]")

    def row(self, table: str, row: dict[str, Any]) -> None:
        """Show a row (a sample, say) in a table of wandb and its like."""
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


def run_stage(store: Store, spec: StageSpec, seed: int) -> Path:
    """Run one stage to completion (or resume a killed one) and return its folder."""
    asked, spec = spec, store.present(spec, seed)
    identity, inputs = store.identity(spec, seed)
    folder = store.folder(spec, identity)
    inherited = sorted({label for resolved in inputs.values() for r in resolved for label in r.labels})
    _check_inherited(spec, inherited)
    is_main = processes.is_main()
    if is_main:
        _clear_unfinished(folder)
    config = result_settings(spec.config)
    settings = store.recipe.settings
    mirrors = pulse = None
    if is_main:
        write_json(folder / SETTINGS, {"stage": spec.kind, "name": spec.name, **asdict(spec.config), "seed": seed})
        mirrors = open_mirrors(settings, About(settings.name, spec.name, spec.kind, seed, folder, config))
        pulse = Pulse(spec.name + (f" (seed {seed})" if len(settings.seeds) > 1 else ""), store.root)
    tracker = Tracker(folder if is_main else None, mirrors)
    run = StageRun(spec.name, spec.kind, folder, stage_seed(spec, seed), store.root, tracker, inputs, is_main)
    run.pulse = pulse
    if absent := sorted(set(asked.upstream()) - set(spec.upstream())):
        run.notes["not_run"] = ", ".join(absent)  # optional stages
    started = time.time()
    with (
        pulse.beating() if pulse else contextlib.nullcontext(),
        _traceback_kept(folder if is_main else None, spec.name),
        disk_errors(folder),
        contextlib.closing(tracker),
    ):
        _fresh_process_state(run.seed, settings.threads)
        spec.module.main(spec.config, run)
        tracker.attach({"identity": identity, "labels_read": run.labels_read, "upstream": run.manifest()})
        processes.wait_for_all()  # or the main process would tidy up while another one still writes
    processes.release_memory()
    if is_main:
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        record = {
            "stage": spec.kind,
            "name": spec.name,
            "identity": identity,
            "version": spec.module.VERSION,
            "seed": run.seed,
            "gpus": os.environ.get(gpus.VISIBLE),  # those that this process could see; null: all that there are
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
            **({"warnings": run.warnings} if run.warnings else {}),
            **({"notes": run.notes} if run.notes else {}),
        }
        write_json(folder / DONE, record)
        publish(store.recipe, spec, seed, folder)
    processes.wait_for_all()  # what another one does next may read it
    return folder


@contextlib.contextmanager
def _traceback_kept(folder: Path | None, stage: str) -> Iterator[None]:
    """What a stage dies of is written beside its outputs, and the error says where."""
    try:
        yield
    except Exception as error:
        error.add_note(f"stage {stage}")
        if folder is not None:
            with contextlib.suppress(OSError):
                (folder / ERRORS).write_text("".join(traceback.format_exception(error)), encoding="utf-8")
                error.add_note(f"traceback in {folder / ERRORS}")
        raise


def _check_inherited(spec: StageSpec, inherited: list[str]) -> None:
    easy_only = firewall.allowed_scope(spec.kind, spec.name) == "easy"
    if spec.traits.trains and easy_only and firewall.SEALED_LABELS in inherited:
        raise firewall.FirewallError(
            f"{spec.name}: an input was made with {firewall.SEALED_LABELS}, but this stage may depend on easy labels "
            "only; read an easy-only input, or put 'full' or 'dagger' into the stage's name if it is a baseline"
        )


def _clear_unfinished(folder: Path) -> None:
    """Start clean, except for what the stage keeps in its scratch folder to resume from."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if entry.name == SCRATCH:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _fresh_process_state(seed: int, threads: int | None) -> None:
    """What a stage finds must not depend on the stages that ran before it in this process."""
    import torch
    from datasets import disable_progress_bars
    from transformers import set_seed
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # ours say more
    disable_progress_bars()
    forget_accelerate_state()
    set_seed(seed)
    if threads:
        torch.set_num_threads(threads)
