"""What would stop a later stage of a recipe, said before the first one runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from reward_models.contract import StepContract
from reward_models.lora import four_bit
from rlhf_e2h.runner import operator_locks, packaged
from rlhf_e2h.runner.config import ConfigError, input_fields, read_yaml
from rlhf_e2h.runner.disk import check_room, room_for, size
from rlhf_e2h.runner.hub import check_model
from rlhf_e2h.runner.recipe import StageSpec
from rlhf_e2h.runner.store import Store, external_path
from rlhf_e2h.text_formats import has_chat_template, no_chat_template

POLICIES = ("policy", "policies", "base", "model")  # settings that name a model with a text format
REWARD_MODELS = ("reward_model", "outcome_model", "reward_models")  # settings that name reward models


def check_inputs(specs: list[StageSpec]) -> None:
    """See that what is not made by a stage is there, that hub models can be had, and that models are such.

    Raises:
        FileNotFoundError: no such path, no such model on the hub, or a folder without a model.
        ValueError: a policy in GGUF weights.
        ConfigError: a reward model without step contract, or a policy without the chat template that it is to use.
    """
    for spec, name, reference in _external(specs):
        path = external_path(spec, reference)
        config = Path(check_model(reference)) if not path.exists() else path / "config.json"
        chat = getattr(getattr(spec.config, "format", None), "name", "") == "chat"
        if chat and name in POLICIES and path.is_dir() and not has_chat_template(path):
            raise ConfigError(no_chat_template(f"{spec.name}: {reference}"))
        if name in POLICIES and path.exists() and spec.kind != "import":  # which reads a tokenizer alone
            from rlhf_e2h.training.models import base_of_context, check_model_folder

            check_model_folder(base_of_context(path))
        if name in REWARD_MODELS:
            try:
                StepContract.from_config(SimpleNamespace(**json.loads(config.read_text(encoding="utf-8"))), reference)
            except (OSError, ValueError) as error:
                raise ConfigError(f"{spec.name}: {name}: {error}") from None


def _external(specs: list[StageSpec]) -> Iterator[tuple[StageSpec, str, str]]:
    """(stage, setting, reference) of inputs that no stage of the recipe makes, each reference of a kind once."""
    seen = set()
    for spec in specs:
        for name, references in input_fields(spec.config).items():
            for reference in references:
                if not reference.startswith("@") and (reference, name in REWARD_MODELS) not in seen:
                    seen.add((reference, name in REWARD_MODELS))
                    yield spec, name, reference


def check_disk(store: Store, pairs: list[tuple[StageSpec, int]], free: float | None = None) -> None:
    """See that the disk of the run folder has room for the stages of (stage, seed) pairs that are not finished.

    Args:
        free: bytes of it that may be used; what is free if not given.

    Raises:
        ConfigError: it has not.
    """
    left = [(spec.name, room_for(store, spec, seed)) for spec, seed in pairs if not _is_finished(store, spec, seed)]
    meanwhile = sorted(room.meanwhile for _, room in left)[-store.recipe.settings.jobs :]
    needed = sum(room.kept for _, room in left) + sum(meanwhile)
    largest = sorted(left, key=lambda one: -sum(one[1]))[:4]
    what = ", ".join(f"{name} {size(sum(room))}" for name, room in largest if sum(room))
    if what:
        check_room(f"what is to be run ({what})", needed, store.root, free)


def _is_finished(store: Store, spec: StageSpec, seed: int) -> bool:
    try:
        return store.finished(spec, seed) is not None
    except (ConfigError, FileNotFoundError):
        return False  # nor is what it reads


def check_four_bit(store: Store, pairs: list[tuple[StageSpec, int]]) -> None:
    """See that bitsandbytes is there for stages of (stage, seed) pairs that are to train on weights in 4 bits.

    Raises:
        ConfigError: it is not installed.
    """
    for spec, seed in pairs:
        if _in_four_bits(spec) and not _is_finished(store, spec, seed):
            try:
                four_bit(getattr(spec.config, "training", spec.config))
            except ValueError as error:
                raise ConfigError(f"{spec.name}: {error}") from None


def _in_four_bits(spec: StageSpec) -> bool:
    return getattr(getattr(spec.config, "training", spec.config), "load_in_4bit", False)


def check_launch(specs: list[StageSpec], launch: str) -> None:
    """See that stages can be divided among the processes of a launch file.

    Raises:
        FileNotFoundError: no such file.
        ConfigError: a batch that does not divide, a form under which a stage does not run, or a lock that DeepSpeed
            would wait for.
    """
    file = launch_file(launch)
    form = read_yaml(file) if file.suffix == ".yaml" else {}
    processes = int(form.get("num_processes", 1))
    if form.get("distributed_type") == "DEEPSPEED":
        operator_locks.check()
    for spec in specs:
        if spec.kind == "ppo" and spec.config.share_base and form.get("distributed_type") == "FSDP":
            raise ConfigError(
                f"{spec.name}: share_base does not run under FSDP ({launch}); set {spec.name}.share_base=false, or "
                "launch with zero3.yaml"
            )
        if _in_four_bits(spec) and form.get("distributed_type") in ("DEEPSPEED", "FSDP"):
            raise ConfigError(
                f"{spec.name}: load_in_4bit does not run under {form['distributed_type']} ({launch}); launch with "
                "ddp.yaml, or train without it"
            )
        try:
            _check_batch(spec, processes)
        except ValueError as error:
            raise ConfigError(f"{spec.name} under {launch}: {error}") from None


def _check_batch(spec: StageSpec, processes: int) -> None:
    if spec.kind == "ppo":
        spec.config.micro_batches(processes)
    elif spec.traits.distributed and hasattr(spec.config, "training"):
        spec.config.training.micro_batch_rows(processes)


def launch_file(launch: str) -> Path:
    """The launch file of a path, or of the name of one that ships."""
    file = packaged.find("launch", launch)
    if not file.is_file():
        known = ", ".join(packaged.names("launch"))
        raise FileNotFoundError(f"--launch {launch}: no such file; these ship: {known}")
    return file
