"""Stage identity: which finished outputs may be reused, and what an input reference means.

A stage writes to `RUN/STAGE/IDENTITY/`. The identity is a hash of the settings that change its result, of the content
of its inputs, of its seed and of the code version it declares; so changed settings get another folder and never reuse
old outputs, and changing them back finds the old folder again. `done.json` is written last: a folder without it is
unfinished.
"""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rlhf_e2h.data import firewall
from rlhf_e2h.runner.config import ConfigError, input_fields, result_settings
from rlhf_e2h.runner.places import note_places
from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.runner.run_files import SETTINGS, hash_data, hash_file, hash_tree, read_done

ASSETS = Path(__file__).parents[1] / "assets"
# settings of stages that name models; what others name must be there
MODEL_SETTINGS = frozenset(
    "policy policies base weak_base start reference model reward_model outcome_model reward_models".split()  # noqa: SIM905
)
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_DATA_FILE = re.compile(
    r"\.(jsonl?|ndjson|[ct]sv|txt|md|ya?ml|toml|parquet|arrow|gz|bz2|xz|zst|zip|tar|tgz|np[yz]|gguf|safetensors|bin|"
    r"pth?|py|log|html)$",
    re.IGNORECASE,
)


@dataclass
class Resolved:
    """An input reference, found: its path, the digest of its content, and the finished stage it belongs to."""

    path: Path
    digest: str
    folder: Path | None = None
    labels: list[str] = field(default_factory=list)  # label files that it was made from


class Store:
    """The finished and unfinished stages of one run folder."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.root = recipe.run_folder.resolve()
        self._finished: dict[tuple[str, int], Path] = {}
        self._digests: dict[str, str] = {}  # of external inputs: hashed once a process

    def identity(self, spec: StageSpec, seed: int) -> tuple[str, dict[str, list[Resolved]]]:
        """Identity of a stage and its resolved inputs, without those that `present` leaves out.

        Raises:
            ConfigError: an input stage has not been run.
            FileNotFoundError: an input path does not exist.
        """
        spec = self.present(spec, seed)
        inputs = {
            reference: self._resolve(spec, reference, seed)
            for references in input_fields(spec.config).values()
            for reference in references
        }
        # a path tells about a machine: what is read from it is named by its content
        names = {reference: found[0].digest for reference, found in inputs.items() if _is_path(reference, found)}
        return self._identity(spec, seed, inputs, names), inputs

    def _identity(
        self, spec: StageSpec, seed: int, inputs: dict[str, list[Resolved]], names: dict[str, str], named: bool = True
    ) -> str:
        """`named`: with the names in mappings of inputs, which stand in the outputs."""
        described: dict[str, Any] = {
            "kind": spec.kind,
            "version": spec.module.VERSION,
            "settings": result_settings(spec.config),
            "inputs": {
                name: {names.get(value, value): [r.digest for r in inputs[value]] for value in values}
                for name, values in input_fields(spec.config).items()
            },
            "scope": firewall.allowed_scope(spec.kind, spec.name),
            "seed": stage_seed(spec, seed),
        }
        if spec.traits.all_seeds:
            described["seeds"] = self.recipe.settings.seeds
        if named and (mappings := _mappings(spec.config)):
            described["names"] = {
                key: {name: names.get(reference, reference) for name, reference in mapping.items()}
                for key, mapping in mappings.items()
            }
        return hash_data(described)[:12]

    def present(self, spec: StageSpec, seed: int) -> StageSpec:
        """The stage without the members of its lists and mappings of inputs that name an optional stage not run yet.

        So an evaluation can name every optional baseline, and a report every optional evaluation: those that were run
        are in it.
        """
        named = {name: getattr(spec.config, name) for name in input_fields(spec.config)}
        lists = {reference for value in named.values() if not isinstance(value, str) for reference in _members(value)}
        absent = {reference for reference in lists if self._not_run(spec, reference, seed)}
        if not absent:
            return spec
        kept = {
            name: {key: one for key, one in value.items() if one not in absent}
            if isinstance(value, dict)
            else [one for one in value if one not in absent]
            for name, value in named.items()
            if not isinstance(value, str)
        }
        try:
            return replace(spec, config=replace(spec.config, **kept))
        except ValueError:
            raise ConfigError(
                f"{spec.name}: of the optional stages that it reads none is finished ({', '.join(sorted(absent))}); "
                "run one with --only"
            ) from None

    def _not_run(self, spec: StageSpec, reference: str, seed: int) -> bool:
        upstream = self.recipe.stages.get(reference[1:].split("/")[0]) if reference.startswith("@") else None
        if upstream is None or not upstream.optional:
            return False
        return not all(self._complete(upstream, one) for one in seeds_read(self.recipe, spec, upstream, seed))

    def _complete(self, spec: StageSpec, seed: int) -> bool:
        """Whether a stage and all that it reads is finished."""
        try:
            present = self.present(spec, seed)
        except ConfigError:
            return False
        inputs = (self.recipe.stages[name] for name in present.upstream())
        read = ((one, number) for one in inputs for number in seeds_read(self.recipe, spec, one, seed))
        return all(self._complete(*pair) for pair in read) and self.finished(spec, seed) is not None

    def folder(self, spec: StageSpec, identity: str) -> Path:
        return self.root / spec.name / identity

    def finished(self, spec: StageSpec, seed: int) -> Path | None:
        """The finished folder of a stage under its present settings and inputs, or None."""
        key = (spec.name, stage_seed(spec, seed))
        if key not in self._finished:
            identity, inputs = self.identity(spec, seed)
            folder: Path | None = self.folder(spec, identity)
            if read_done(self.folder(spec, identity)) is None:
                folder = self._of_older_version(spec, seed, inputs)
            if folder is None:
                return None
            self._finished[key] = folder
        return self._finished[key]

    def _of_older_version(self, spec: StageSpec, seed: int, inputs: dict[str, list[Resolved]]) -> Path | None:
        """The finished folder of an older version, whose identity left out the names in mappings of inputs.

        Before that it also named inputs from outside by path, here or on another machine.
        """
        spec = self.present(spec, seed)
        outside = {reference: found[0].digest for reference, found in inputs.items() if _is_path(reference, found)}
        for folder in sorted((self.root / spec.name).glob("*/")) if outside or _mappings(spec.config) else ():
            done = read_done(folder)
            if done is None or not _same_names(spec, folder, done.get("inputs", {}), inputs):
                continue
            was = {digests[0]: reference for reference, digests in done.get("inputs", {}).items()}
            paths = {reference: was.get(digest, reference) for reference, digest in outside.items()}
            if folder.name in {self._identity(spec, seed, inputs, names, named=False) for names in (outside, paths)}:
                return folder
        return None

    def note_places(self) -> None:
        """Write down where the models from outside are that the recipe names; see runner/places.py."""
        found = {}
        for spec in self.recipe.stages.values():
            models = [values for name, values in input_fields(spec.config).items() if name in MODEL_SETTINGS]
            for reference in itertools.chain.from_iterable(models):
                if not reference.startswith("@") and _path(reference).is_dir():
                    resolved = self._external(spec, reference)
                    found[resolved.digest] = str(resolved.path)
        note_places(self.root, found)

    def _resolve(self, spec: StageSpec, reference: str, seed: int) -> list[Resolved]:
        if not reference.startswith("@"):
            return [self._external(spec, reference)]
        name, _, inside = reference[1:].partition("/")
        upstream = self.recipe.stages[name]
        return [self._internal(spec, upstream, inside, one) for one in seeds_read(self.recipe, spec, upstream, seed)]

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
        path = external_path(spec, reference)
        if not path.exists():
            return Resolved(Path(reference), hash_data(reference))
        key = str(path.resolve())
        if key not in self._digests:
            self._digests[key] = hash_data(hash_tree(path)) if path.is_dir() else hash_file(path)
        return Resolved(path.resolve(), self._digests[key])


def _is_path(reference: str, found: list[Resolved]) -> bool:
    """Whether an input comes from a path outside the run; else it is a stage's, an asset or a model of the hub."""
    return not reference.startswith(("@", "asset:")) and found[0].path.is_absolute()


def _mappings(config: Any) -> dict[str, dict[str, str]]:
    """The inputs of a config that have names: policies and reward models by what the tables call them."""
    values = {name: getattr(config, name) for name in input_fields(config)}
    return {name: value for name, value in values.items() if isinstance(value, dict)}


def _same_names(spec: StageSpec, folder: Path, was: dict[str, list[str]], inputs: dict[str, list[Resolved]]) -> bool:
    """Whether the names in a finished stage's mappings meant what they mean now; `was`: digests by reference."""
    file = folder / SETTINGS
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for key, mapping in _mappings(spec.config).items():
        now = {name: [found.digest for found in inputs[reference]] for name, reference in mapping.items()}
        if {name: was.get(reference) for name, reference in (before.get(key) or {}).items()} != now:
            return False
    return True


def _members(value: dict[str, str] | list[str]) -> list[str]:
    return list(value.values()) if isinstance(value, dict) else value


def external_path(spec: StageSpec, reference: str) -> Path:
    """The path of an input that no stage makes; one that does not exist is the id of a model on the hub.

    Raises:
        FileNotFoundError: neither; only a setting that names a model takes a hub id.
    """
    path = _path(reference)
    if path.exists():
        return path
    names = {name for name, values in input_fields(spec.config).items() if reference in values}
    if not names & MODEL_SETTINGS:
        raise FileNotFoundError(
            f"{spec.file}: {', '.join(sorted(names))}: {reference!r} does not exist; give a path or '@STAGE'"
        )
    if not looks_like_hub_id(reference):
        raise FileNotFoundError(f"{spec.file}: input {reference!r} does not exist; give a path, '@STAGE' or a hub id")
    return path


def _path(reference: str) -> Path:
    asset = reference.startswith("asset:")
    return ASSETS / reference.removeprefix("asset:") if asset else Path(reference).expanduser()


def stage_seed(spec: StageSpec, seed: int) -> int:
    """The seed that a stage sees: data preparation and reports are the same for all seeds of a run.

    So is a base model, unless its setting `each_seed` says otherwise.
    """
    return seed if spec.traits.seeded or getattr(spec.config, "each_seed", False) else 0


def seeds_read(recipe: Recipe, spec: StageSpec, upstream: StageSpec, seed: int) -> list[int]:
    """The seeds of an input stage that a stage reads: its own, or all where it spans them."""
    spans = spec.traits.all_seeds and stage_seed(upstream, 1) == 1
    return recipe.settings.seeds if spans else [seed]


def looks_like_hub_id(reference: str) -> bool:
    """Whether a name may be that of a model on the hub: NAME or OWNER/NAME. A dot in it is part of the name.

    Only the suffix of a kind of data file says that a file was meant.
    """
    return bool(_HUB_ID.fullmatch(reference)) and not _DATA_FILE.search(reference)
