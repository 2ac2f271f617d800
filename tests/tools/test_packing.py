"""A run folder in one file: what was changed is refused, and the run resumes where nothing lies as it did."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_e2h.cli import main
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import hash_file
from rlhf_e2h.tools.packing.pack import pack
from rlhf_e2h.tools.packing.unpack import unpack
from rlhf_e2h.training.models import ModelShape, new_llama, save_policy

RECIPE = {
    "recipe.yaml": "name: small\nvariables: {base: none}\n",
    "1_prepare.yaml": "stage: prepare\nsource: procedural\ntrain_per_level: [6, 6, 6, 6, 6]\ntest_size: 5\n",
    "2_sft_easy.yaml": 'stage: sft\npolicy: ${base}\ndata: "@prepare"\n'
    "training: {lora: {r: 2}, max_steps: 2, batch_size: 4, per_device_train_batch_size: 4, learning_rate: 0.01, "
    "bf16: true}\n",
    "3_prm.yaml": 'stage: reward\nkind: prm\nbase: "@sft_easy"\ndata: "@prepare"\nreference_solutions: true\n'
    "flip_labels: 0.3\ntraining: {lora: {r: 2}, batch_size: 8, per_device_train_batch_size: 8, learning_rate: 0.01}\n",
    "4_icl.yaml": 'stage: icl\npolicy: ${base}\ndata: "@prepare"\nshots: 1\n',
    "5_sample.yaml": 'stage: sample\npolicy: "@icl"\ndata: "@prepare"\nlimit: 2\ndecoding: {n: 1, max_new_tokens: 4}\n',
}
STAGES = ["icl", "prepare", "prm", "sample", "sft_easy"]
Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its recipe and base, the base stored in bfloat16, on a machine that no test sees as it was:
    the folder was renamed after packing."""
    top = tmp_path_factory.mktemp("packing") / "there"
    (top / "recipe").mkdir(parents=True)
    for name, text in RECIPE.items():
        (top / "recipe" / name).write_text(text)
    shape = ModelShape(hidden=16, layers=1, intermediate=32, heads=2, max_positions=512)
    model, tokenizer = new_llama(shape, "byte", 0)
    save_policy(model.to(torch.bfloat16), tokenizer, top / "base")
    run_recipe(load_recipe(top / "recipe", [f"runs={top / 'run'}", f"base={top / 'base'}"]))
    (top / "run/sft_easy/0123456789ab/_partial").mkdir(parents=True)  # begun under other settings, and killed
    (top / "run/sft_easy/0123456789ab/settings.json").write_text('{"stage": "sft", "name": "sft_easy", "seed": 0}')
    (top / "run/sft_easy/0123456789ab/_partial/weights").write_bytes(b"half")
    made = pack(top / "run", top / "small.tar.gz")
    assert {one.partition("/")[0]: what for one, what in made.weights.items()} == {
        "prepare": "", "icl": "", "sample": "", "sft_easy": "adapter", "prm": "adapter"
    }  # fmt: skip
    assert made.unfinished == ["sft_easy/0123456789ab"] and made.missing == []
    pack(top / "run", top / "again.tgz")
    pack(top / "run", top / "whole.tar", whole=True)
    return top.rename(top.with_name("renamed"))


def files(run: Path) -> dict[str, str]:
    """sha256 of every file of finished stages."""
    folders = [done.parent for done in run.glob("*/*/done.json")]
    return {str(path.relative_to(run)): hash_file(path) for f in folders for path in f.rglob("*") if path.is_file()}


def here(there: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """Where the run goes, and the settings of this machine."""
    shutil.copytree(there / "base", tmp_path / "models" / "base")
    return tmp_path / "run", [f"runs={tmp_path / 'run'}", f"base={tmp_path / 'models' / 'base'}"]


def test_two_packs_are_the_same_and_carry_adapters(there: Path) -> None:
    assert (there / "small.tar.gz").read_bytes() == (there / "again.tgz").read_bytes()
    with tarfile.open(there / "small.tar.gz") as archive:
        names = [info.name for info in archive]
        assert {(info.mtime, info.uid, info.uname) for info in archive} == {(0, 0, "")}
    assert names[0] == "manifest.json"
    assert not [name for name in names if name.endswith("/model.safetensors")]
    assert len([name for name in names if name.endswith("adapter/adapter_model.safetensors")]) == 2


@pytest.mark.parametrize("name", ["small.tar.gz", "whole.tar"])
def test_the_run_resumes_where_nothing_lies_as_it_did(
    there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run, settings = here(there, tmp_path)
    found = unpack(there / name, run, bases=[tmp_path / "models/base"])
    assert sorted(one.partition("/")[0] for one in found.placed) == STAGES and not found.missing
    assert files(run) == files(there / "run")  # merged weights too, which one of the packs does not hold
    run_recipe(load_recipe(there / "recipe", settings))
    assert "nothing to do: all 5 stages are finished" in capsys.readouterr().err
    before = next((run / "sample").glob("*/samples.jsonl"))
    text = before.read_bytes()
    shutil.rmtree(run / "sample")
    run_recipe(load_recipe(there / "recipe", settings))  # its policy names the base by a path that is gone
    assert before.read_bytes() == text
    assert unpack(there / name, run).placed == [] and not (run / ".unpacking").exists()


def test_a_base_that_is_not_here(there: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"sft_easy: its weights are made again from .*--base FOLDER"):
        unpack(there / "small.tar.gz", tmp_path / "run")
    assert not files(tmp_path / "run")
    found = unpack(there / "small.tar.gz", tmp_path / "run", only=["prepare", "sample"])
    assert sorted(one.partition("/")[0] for one in found.placed) == ["prepare", "sample"]
    assert [one.partition("/")[0] for one in found.missing] == ["icl"]


def test_another_base_gives_other_weights(there: Path, tmp_path: Path) -> None:
    run, _ = here(there, tmp_path)
    weights = tmp_path / "models/base/model.safetensors"
    changed = {name: tensor * 1.5 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, {"format": "pt"})
    with pytest.raises(FileNotFoundError, match="--base FOLDER"):  # not the model that the adapter was trained on
        unpack(there / "small.tar.gz", run, bases=[tmp_path / "models/base"])
    assert not files(run)


def rewritten(source: Path, out: Path, change: Callable[[list[Member]], Iterable[Member]]) -> Path:
    with tarfile.open(source) as archive:
        members = [(info, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    with gzip.open(out, "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for info, content in change(members):
            info.size = len(content) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(content))
    return out


def edited(part: str, edit: Callable[[bytes], bytes]) -> Callable[[list[Member]], list[Member]]:
    return lambda members: [(info, edit(text) if part in info.name else text) for info, text in members]


def added(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Callable[[list[Member]], list[Member]]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return lambda members: [*members, (info, b"")]


def manifest(edit: Callable[[dict], None]) -> Callable[[list[Member]], list[Member]]:
    def change(text: bytes) -> bytes:
        data = json.loads(text)
        edit(data)
        return json.dumps(data).encode()

    return edited("manifest.json", change)


def stage(data: dict, name: str) -> dict:
    return next(one for one in data["stages"] if one["name"] == name)


def in_both(members: list[Member]) -> list[Member]:
    """A file changed, and its hash in the manifest as well."""
    members = edited("prepare/", lambda text: text.replace(b"level", b"LEVEL"))(members)
    new = {info.name: {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)} for info, text in members}

    def follow(data: dict) -> None:
        one = stage(data, "prepare")
        one["files"] = {name: new[f"prepare/{one['identity']}/{name}"] for name in one["files"]}

    return manifest(follow)(members)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edited("samples.jsonl", lambda text: text[:-2] + b"!\n"), r"sample/\w+/samples.jsonl was changed"),
        (edited("labels_easy", lambda text: text + b"x"), r"prepare/\w+/labels_easy.jsonl was changed"),
        (in_both, r"prepare/\w+/\w+.jsonl was changed after its stage finished"),
        (lambda members: members[:-1], "is missing"),
        (lambda members: members[1:], "does not begin with manifest.json"),
        (added("../outside"), "'../outside' leads out of the run folder"),
        (added("/tmp/outside"), "'/tmp/outside' leads out of the run folder"),
        (added("prepare/new/file"), "'prepare/new/file' is not in its manifest.json"),
        (added("prepare/link", tarfile.SYMTYPE, "/etc/passwd"), "'prepare/link' is not a plain file"),
        (added("prepare/link", tarfile.LNKTYPE, "manifest.json"), "'prepare/link' is not a plain file"),
        (manifest(lambda data: data.update(format=2)), "a pack of format 2, and this version reads format 1"),
        (manifest(lambda data: stage(data, "icl").update(name="..")), "'..' cannot be the name of a folder"),
        (
            manifest(lambda data: stage(data, "icl")["files"].update({"../../x": {"sha256": "0" * 64, "size": 0}})),
            "icl: '../../x' leads out",
        ),
        (manifest(lambda data: data.pop("stages")), "cannot be read"),
        (
            manifest(lambda data: stage(data, "prm").update(version=99)),
            r"prm was made by version 99 of reward, here is \d+.*--only icl prepare sample sft_easy",
        ),
        (manifest(lambda data: stage(data, "icl").update(kind="magic")), "icl is a 'magic' stage"),
    ],
)
def test_what_was_changed_is_refused(
    there: Path, tmp_path: Path, change: Callable[[list[Member]], Iterable[Member]], words: str
) -> None:
    run, _ = here(there, tmp_path)
    file = rewritten(there / "small.tar.gz", tmp_path / "changed.tar.gz", change)
    with pytest.raises(ConfigError, match=words):
        unpack(file, run, bases=[tmp_path / "models/base"])
    assert not files(run) and not list(tmp_path.rglob("outside"))


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])  # a tar ends in up to 10 kB of zeros, which nobody misses
@pytest.mark.parametrize("name", ["small.tar.gz", "whole.tar"])
def test_a_pack_that_was_cut_short(there: Path, tmp_path: Path, share: float, name: str) -> None:
    run, _ = here(there, tmp_path)
    whole = (there / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ConfigError, match="cut short"):
        unpack(tmp_path / name, run, bases=[tmp_path / "models/base"])
    assert not files(run)


def test_stages_of_this_version_can_be_had_alone(there: Path, tmp_path: Path) -> None:
    other = manifest(lambda data: stage(data, "prm").update(version=99))
    file = rewritten(there / "small.tar.gz", tmp_path / "changed.tar.gz", other)
    unpack(file, tmp_path / "run", only=["prepare"])
    assert [path.parts[0] for path in map(Path, files(tmp_path / "run"))].count("prepare") > 5


def test_a_finished_stage_that_differs_stays(there: Path, tmp_path: Path) -> None:
    unpack(there / "whole.tar", tmp_path / "run")
    record = next(tmp_path.glob("run/icl/*/done.json"))
    done = json.loads(record.read_text())
    done["files"]["in_context.json"] = "0" * 64
    record.write_text(json.dumps(done))
    shutil.rmtree(tmp_path / "run/sample")
    before = files(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"icl/\w+: is finished here with another in_context.json"):
        unpack(there / "whole.tar", tmp_path / "run")
    assert files(tmp_path / "run") == before
    record.unlink()  # unfinished: the finished one takes its place
    assert sorted(one.partition("/")[0] for one in unpack(there / "whole.tar", tmp_path / "run").placed) == [
        "icl",
        "sample",
    ]
    assert files(tmp_path / "run") == files(there / "run")


def test_too_little_room_is_said_first(there: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"whole.tar: needs \d+ kB, and 10 kB are free on the disk of .*run"):
        unpack(there / "whole.tar", tmp_path / "run", free=10_000)
    with pytest.raises(ConfigError, match=r"x.tar: needs \d+ kB, and 10 kB are free"):
        pack(there / "run", tmp_path / "x.tar", free=10_000)
    assert not files(tmp_path / "run") and not list(tmp_path.glob("*x.tar*"))


def test_unfinished_stages_when_asked(there: Path, tmp_path: Path) -> None:
    made = pack(there / "run", tmp_path / "x.tar", only=["sft_easy"], unfinished=True, whole=True)
    assert made.unfinished == [] and [one.partition("/")[0] for one in made.missing] == ["prepare"]
    unpack(tmp_path / "x.tar", tmp_path / "run")
    assert (tmp_path / "run/sft_easy/0123456789ab/_partial/weights").read_bytes() == b"half"
    (tmp_path / "run/sft_easy/0123456789ab/_partial/weights").write_bytes(b"more")
    assert unpack(tmp_path / "x.tar", tmp_path / "run").kept == ["sft_easy/0123456789ab"]
    assert (tmp_path / "run/sft_easy/0123456789ab/_partial/weights").read_bytes() == b"more"


@pytest.fixture
def copied(there: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(there / "run", tmp_path / "copied"))


def test_outputs_that_were_changed_are_not_packed(copied: Path, tmp_path: Path) -> None:
    file = next(copied.glob("sample/*/samples.jsonl"))
    file.write_text(file.read_text() + "\n")
    with pytest.raises(ConfigError, match=r"sample/\w+/samples.jsonl: was changed after its stage finished"):
        pack(copied, tmp_path / "x.tar")
    file.unlink()
    with pytest.raises(ConfigError, match=r"samples.jsonl: is gone"):
        pack(copied, tmp_path / "x.tar")
    file.symlink_to(os.devnull)
    with pytest.raises(ConfigError, match="is a link"):
        pack(copied, tmp_path / "x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_merged_weights_that_cannot_be_made_again_are_packed(copied: Path, there: Path, tmp_path: Path) -> None:
    folder = next(copied.glob("prm/*/done.json")).parent
    adapter = folder / "adapter/adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(adapter).items()}, adapter)
    done = json.loads((folder / "done.json").read_text())
    done["files"]["adapter/adapter_model.safetensors"] = hash_file(adapter)
    (folder / "done.json").write_text(json.dumps(done))
    made = pack(copied, tmp_path / "x.tar")
    weights = {one.partition("/")[0]: what for one, what in made.weights.items()}
    assert weights["prm"] == "whole: merging its adapter again gives other bytes"
    assert weights["sft_easy"].startswith("whole: its adapter cannot be merged again")  # the base was renamed
    with tarfile.open(tmp_path / "x.tar") as archive:
        assert len([info for info in archive if info.name.endswith("/model.safetensors")]) == 2


def test_on_the_command_line(there: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.tar.gz"
    assert main(["pack", str(there / "run"), "-o", str(file), "--only", "prepare", "sft_easy"]) == 0
    said = capsys.readouterr().out
    assert "1 unfinished stages left out (sft_easy/0123456789ab): --unfinished" in said
    assert f"{file}: 2 stages, " in said and "read from outside the run, to be had there too: " in said
    assert main(["unpack", str(file), "--into", str(tmp_path / "run")]) == 0
    assert "e2h run RECIPE runs=" in capsys.readouterr().out
    for arguments, words in (
        (["pack", str(there / "run"), "-o", str(file)], "exists; remove it"),
        (["pack", str(there / "run"), "-o", "x.zip"], "a pack ends in .tar, .tar.gz, .tgz"),
        (["pack", str(tmp_path / "none"), "-o", "x.tar"], "no such run folder"),
        (["pack", str(there / "run"), "-o", "x.tar", "--only", "prepar"], "did you mean 'prepare'?"),
        (["unpack", str(tmp_path / "none.tar")], "no such file"),
        (["unpack", str(file), "--only", "prm"], "--only prm: no such stage in"),
    ):
        assert main(arguments) == 2
        assert words in capsys.readouterr().err
