"""`push_to_hub: USER/NAME` in a stage's file: the model that it has trained goes to the hub, with a card.

A finished stage stays finished if the upload fails: that is said, and the same command tries it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlhf_e2h.runner.config import ConfigError, input_fields, result_settings
from rlhf_e2h.runner.environment import describe
from rlhf_e2h.runner.progress import console
from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.runner.run_files import read_done, write_json
from rlhf_e2h.runner.settings_text import KINDS

MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")
PUBLISHED = "published.json"  # what went where; without it an upload is still to be made


def check_publishing(specs: Sequence[StageSpec]) -> None:
    """See, before the first stage, that what is to be uploaded can be.

    Raises:
        ConfigError: a stage that makes no model, a name that is none, or no login.
    """
    from rlhf_e2h.runner.store import looks_like_hub_id

    wanted = [spec for spec in specs if spec.push_to_hub]
    for spec in wanted:
        if spec.kind not in KINDS:
            raise ConfigError(
                f"{spec.file}: push_to_hub: a {spec.kind} stage makes no model; these do: {', '.join(KINDS)}"
            )
        if not isinstance(spec.push_to_hub, str) or not looks_like_hub_id(spec.push_to_hub):
            raise ConfigError(f"{spec.file}: push_to_hub is {spec.push_to_hub!r}; write USER/NAME")
    if not wanted:
        return
    from huggingface_hub import constants, get_token

    names = ", ".join(spec.name for spec in wanted)
    if constants.HF_HUB_OFFLINE:
        raise ConfigError(
            f"{names}: push_to_hub needs the hub, and HF_HUB_OFFLINE forbids asking; unset one of the two"
        )
    if not get_token():
        raise ConfigError(f"{names}: push_to_hub needs a login that may write: `hf auth login`, or set HF_TOKEN")


def publish(recipe: Recipe, spec: StageSpec, seed: int, folder: Path) -> None:
    """Upload a finished stage's model in one commit, unless that has been done. A failure is said; it stops nothing."""
    if not spec.push_to_hub:
        return
    several = len(recipe.settings.seeds) > 1
    name = spec.push_to_hub + (f"-seed{seed}" if several else "")
    note = folder / PUBLISHED
    if note.is_file() and json.loads(note.read_text(encoding="utf-8"))["repository"] == name:
        return
    done = read_done(folder)
    assert done is not None, f"{folder} is published before it is finished"
    try:
        address = _upload(name, folder, done, card(recipe, spec, done))
    except Exception as error:  # the model is there all the same
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        console.print(
            f"{spec.name} is not on the hub ({first[:200]}); it is finished in {folder}: start the same command again "
            "to upload it",
            markup=False,
        )
        return
    write_json(note, {"repository": name, "commit": address})
    console.print(f"{spec.name} is on the hub: {address}", markup=False)


def _upload(name: str, folder: Path, done: Mapping[str, Any], text: str) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(name, exist_ok=True)
    files = [file for file in done["files"] if file.endswith(MODEL_FILES) and _is_of_model(file)]
    operations = [CommitOperationAdd(file, str(folder / file)) for file in files]
    operations.append(CommitOperationAdd("README.md", text.encode("utf-8")))
    message = f"{done['name']} (seed {done['seed']}) of rlhf_e2h"
    return str(api.create_commit(name, operations, commit_message=message).commit_url)


def _is_of_model(file: str) -> bool:
    return "/" not in file or file.startswith("adapter/")


def card(recipe: Recipe, spec: StageSpec, done: Mapping[str, Any]) -> str:
    """The model card: what it is, how it is loaded, what it was made from and which labels it has seen."""
    reward = spec.kind == "reward"
    head: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "token-classification" if reward else "text-generation",
        "tags": ["rlhf_e2h", spec.kind, *(["reward-model"] if reward else [])],
    }
    base = _hub_base(recipe, spec)
    if base:
        head["base_model"] = base
    kind = f"{spec.config.kind.upper()} reward model" if reward else f"policy trained by the stage `{spec.kind}`"
    labels = sorted({row["file"] for row in done["labels_read"]} | set(done["labels_inherited"])) or ["none"]
    versions = describe()["versions"]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False).strip(),
            "---",
            "",
            f"# {spec.name}",
            "",
            f"A {kind}, made by the recipe `{recipe.settings.name}` of rlhf_e2h"
            + (f" from [{base}](https://huggingface.co/{base})." if base else "."),
            "",
            "```python",
            *_loading(reward, spec.push_to_hub or ""),
            "```",
            "",
            "## Labels",
            "",
            f"Label files read by this stage or by what it was made from: {', '.join(f'`{name}`' for name in labels)}.",
            "",
            "## Results",
            "",
            *_table(done["results"]),
            "",
            "## Settings",
            "",
            f"Seed {done['seed']}, identity `{done['identity']}`, {done['seconds']:,.0f} s.",
            "",
            "```json",
            json.dumps({**result_settings(spec.config), **_inputs(spec)}, indent=2, default=str),
            "```",
            "",
            "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
            "",
        ]
    )


def _inputs(spec: StageSpec) -> dict[str, list[str]]:
    """What the stage reads; of a path on this machine the last part alone."""
    return {
        name: [
            ref if ref.startswith(("@", "asset:")) or not Path(ref).exists() else Path(ref).name for ref in references
        ]
        for name, references in input_fields(spec.config).items()
    }


def _loading(reward: bool, name: str) -> list[str]:
    if reward:
        return [
            "from reward_models import Reranker",
            "",
            f'Reranker.from_pretrained("{name}").rank("What is 2 + 3?", ["2 + 3 = 5", "2 + 3 = 6"])',
        ]
    return [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
    ]


def _table(results: Mapping[str, Any]) -> list[str]:
    shown = {name: value for name, value in results.items() if isinstance(value, int | float | str)}
    if not shown:
        return ["None recorded."]
    rows = [
        f"| {name} | {value:.4g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in shown.items()
    ]
    return ["| figure | value |", "|---|---|", *rows]


def _hub_base(recipe: Recipe, spec: StageSpec) -> str | None:
    """The hub id that the chain of stages starts from, if it is one."""
    from rlhf_e2h.runner.store import looks_like_hub_id

    for name in ("base", "policy", "start"):
        reference = getattr(spec.config, name, None)
        if not reference:
            continue
        if reference.startswith("@"):
            return _hub_base(recipe, recipe.stages[reference[1:].split("/")[0]])
        return reference if looks_like_hub_id(reference) and not Path(reference).exists() else None
    return None
