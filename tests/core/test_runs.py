import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from reward_models.records import read_jsonl
from rlhf_e2h.parallel.blocks import Parts
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import planned, run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.run_files import lock, read_done
from rlhf_e2h.runner.store import Store


def _identities(recipe, overrides):
    loaded = load_recipe(recipe, overrides)
    store = Store(loaded)
    found = {}
    for name, spec in loaded.stages.items():
        try:
            found[name] = store.identity(spec, loaded.settings.seeds[0])[0]
        except ConfigError:
            found[name] = "input unfinished"
    return found


def test_the_second_run_does_nothing_and_says_so(recipe, runs, capsys):
    run_recipe(load_recipe(recipe, [runs]))
    before = {f: f.stat().st_mtime_ns for f in Path(runs[5:]).rglob("*") if f.name == "done.json"}
    assert len(before) == 4
    capsys.readouterr()
    run_recipe(load_recipe(recipe, [runs]))
    assert "nothing to do: all 4 stages are finished" in capsys.readouterr().err
    assert before == {f: f.stat().st_mtime_ns for f in before}


def test_changed_settings_get_a_folder_of_their_own_and_changing_back_finds_the_old(recipe, runs):
    run_recipe(load_recipe(recipe, [runs]))
    first = _identities(recipe, [runs])
    run_recipe(load_recipe(recipe, [runs, "shots=2"]))
    second = _identities(recipe, [runs, "shots=2"])
    assert first["prepare"] == second["prepare"]
    assert first["icl"] != second["icl"] and first["sample"] != second["sample"]
    assert _identities(recipe, [runs]) == first


def test_micro_batch_and_paths_do_not_change_the_identity(recipe, runs, tmp_path):
    run_recipe(load_recipe(recipe, [runs]))
    elsewhere = f"runs={tmp_path / 'elsewhere'}"
    run_recipe(load_recipe(recipe, [elsewhere]))
    first, second = _identities(recipe, [runs]), _identities(recipe, [elsewhere])
    assert first == second and "input unfinished" not in first.values()
    changed = _identities(recipe, [runs, "pretrain.training.per_device_train_batch_size=2"])
    assert changed["pretrain"] == first["pretrain"]


def test_a_model_from_outside_is_known_by_its_content(recipe, runs, tmp_path):
    run_recipe(load_recipe(recipe, [runs]), only="pretrain")
    made = next(Path(runs[5:], "pretrain").iterdir())
    (recipe / "2_icl.yaml").write_text('stage: icl\npolicy: ${base}\ndata: "@prepare"\nshots: 1\n')
    (recipe / "recipe.yaml").write_text("name: small\nvariables: {base: none}\n")
    here, there = tmp_path / "here", tmp_path / "models" / "there"
    shutil.copytree(made, here)
    run_recipe(load_recipe(recipe, [runs, f"base={here}"]))
    first = _identities(recipe, [runs, f"base={here}"])
    there.parent.mkdir()
    here.rename(there)
    assert _identities(recipe, [runs, f"base={there}"]) == first
    shutil.rmtree(Path(runs[5:], "sample"))
    run_recipe(load_recipe(recipe, [runs, f"base={there}"]))  # its policy still names the first place
    assert _identities(recipe, [runs, f"base={there}"]) == first
    # a folder of the time when identities held paths, from a third place
    loaded = load_recipe(recipe, [runs, f"base={there}"])
    store, icl = Store(loaded), loaded.stages["icl"]
    _, inputs = store.identity(icl, 0)
    old = store._identity(icl, 0, inputs, {str(there): str(here)})
    assert old != first["icl"]
    done = json.loads((store.root / "icl" / first["icl"] / "done.json").read_text())
    assert str(here) in done["inputs"]
    (store.root / "icl" / first["icl"]).rename(store.root / "icl" / old)
    assert _identities(recipe, [runs, f"base={there}"])["icl"] == first["icl"]
    assert Store(loaded).finished(icl, 0) == store.root / "icl" / old
    (there / "config.json").write_text((there / "config.json").read_text() + "\n")
    assert Store(loaded).finished(icl, 0) is None


def test_names_in_a_mapping_of_inputs_are_in_the_identity(recipe, runs):
    """They stand in the outputs; a folder of the time when they were left out is found under the same names."""

    def loaded(name):
        text = f'stage: evaluate\ndata: "@prepare"\npolicies: {{{name}: "@pretrain"}}\nmax_new_tokens: 6\n'
        (recipe / "4_evaluate.yaml").write_text(text)
        return load_recipe(recipe, [runs])

    found = {}
    for name in ("one", "other"):
        run_recipe(loaded(name))
        spec = loaded(name).stages["evaluate"]
        folder = Store(loaded(name)).finished(spec, 0)
        assert {row["policy"] for row in read_jsonl(folder / "outcomes.jsonl")} == {name}
        found[name] = folder
    assert found["one"] != found["other"]
    shutil.rmtree(found["other"])
    store, spec = Store(loaded("one")), loaded("one").stages["evaluate"]
    old = store.folder(spec, store._identity(spec, 0, store.identity(spec, 0)[1], {}, named=False))
    found["one"].rename(old)
    assert old != found["one"] and Store(loaded("one")).finished(spec, 0) == old
    assert Store(loaded("other")).finished(loaded("other").stages["evaluate"], 0) is None


def test_samples_that_were_cut_are_a_warning(recipe, runs):
    """A random model ends no text: `sample` and `evaluate` say so beneath their lines."""
    (recipe / "4_evaluate.yaml").write_text(
        'stage: evaluate\ndata: "@prepare"\npolicies: {one: "@pretrain"}\nmax_new_tokens: 5\n'
    )
    run_recipe(load_recipe(recipe, [runs]))
    said = {name: read_done(next(Path(runs[5:], name).iterdir()))["warnings"] for name in ("sample", "evaluate")}
    (cut,) = re.findall(r"(\d+) of 20 samples were cut at max_new_tokens=6 before an end token", str(said["sample"]))
    assert int(cut) > 10  # a random model writes an end token now and then
    assert re.search(r"one: \d+ of 10 samples were cut at max_new_tokens=5 before an end token", str(said["evaluate"]))


def test_changed_input_content_changes_the_identity(recipe, runs):
    run_recipe(load_recipe(recipe, [runs]))
    first = _identities(recipe, [runs])
    run_recipe(load_recipe(recipe, [runs, "prepare.data_seed=1"]))
    assert _identities(recipe, [runs, "prepare.data_seed=1"])["icl"] != first["icl"]


def test_an_unfinished_folder_is_not_reused(recipe, runs):
    run_recipe(load_recipe(recipe, [runs]))
    folder = next(Path(runs[5:], "icl").iterdir())
    text = (folder / "in_context.json").read_text()
    (folder / "done.json").unlink()
    (folder / "in_context.json").write_text("half")
    run_recipe(load_recipe(recipe, [runs]))
    assert (folder / "in_context.json").read_text() == text


def test_a_killed_sampling_stage_goes_on_where_it_stopped(recipe, runs):
    run_recipe(load_recipe(recipe, [runs]))
    folder = next(Path(runs[5:], "sample").iterdir())
    rows = read_jsonl(folder / "samples.jsonl")
    (folder / "done.json").unlink()
    (folder / "samples.jsonl").unlink()
    parts = Parts(folder / "_partial" / "sampling", 10)
    marked = [{**row, "text": "kept"} for row in rows[:8]]  # of four problems
    parts.folder.mkdir(parents=True)
    parts.save(0, 4, marked, (7, 11.0))
    run_recipe(load_recipe(recipe, [runs]))
    again = read_jsonl(folder / "samples.jsonl")
    assert [row["text"] for row in again[:8]] == ["kept"] * 8
    assert again[8:] == rows[8:]
    assert not parts.folder.parent.exists()
    assert json.loads((folder / "done.json").read_text())["tokens"] > 7  # what the killed run has spent counts too


def test_seeds_share_what_does_not_depend_on_them(recipe, runs):
    run_recipe(load_recipe(recipe, [runs, "seeds=[0, 1]"]))
    counts = {name: len(list(Path(runs[5:], name).iterdir())) for name in ("pretrain", "prepare", "icl", "sample")}
    assert counts == {"pretrain": 1, "prepare": 1, "icl": 2, "sample": 2}


def test_what_spans_seeds_or_has_none_runs_once(recipe, runs):
    (recipe / "9_speed.yaml").write_text('stage: speed\ndata: "@prepare"\nruns: {icl: "@icl"}\nbaseline: icl\n')
    loaded = load_recipe(recipe, [runs, "seeds=[3, 4]"])
    seeds = {name: [seed for _, seed in planned(loaded, name)] for name in ("prepare", "icl", "speed")}
    assert seeds == {"prepare": [3], "icl": [3, 4], "speed": [3]}


def test_the_completion_record_says_what_was_read(recipe, runs):
    run_recipe(load_recipe(recipe, [runs]))
    icl = read_done(next(Path(runs[5:], "icl").iterdir()))
    assert [record["file"] for record in icl["labels_read"]] == ["labels_easy.jsonl"]
    sample = read_done(next(Path(runs[5:], "sample").iterdir()))
    assert sample["labels_read"] == [] and sample["labels_inherited"] == ["labels_easy.jsonl"]


def test_a_stage_that_may_not_read_hard_labels_is_stopped(recipe, runs):
    (recipe / "2_icl.yaml").write_text('stage: icl\npolicy: "@pretrain"\ndata: "@prepare"\nshots: 1\nlabels: full\n')
    with pytest.raises(ValueError, match="icl"):
        run_recipe(load_recipe(recipe, [runs]))
    assert not list(Path(runs[5:]).glob("icl/*/done.json"))


def test_hard_labels_cannot_come_in_through_an_input(recipe, runs):
    (recipe / "2_icl_full.yaml").write_text(
        'stage: icl\npolicy: "@pretrain"\ndata: "@prepare"\nshots: 1\nlabels: full\n'
    )
    (recipe / "4_second.yaml").write_text('stage: icl\npolicy: "@icl_full"\ndata: "@prepare"\nshots: 1\n')
    with pytest.raises(ValueError, match="second: an input was made with labels_sealed"):
        run_recipe(load_recipe(recipe, [runs]))


def test_a_sealed_file_cannot_be_named_as_an_input(recipe, runs):
    text = 'stage: sample\npolicy: "@prepare/labels_sealed.jsonl"\ndata: "@prepare"\n'
    (recipe / "4_direct.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"'direct'.* may not read the sealed labels"):
        run_recipe(load_recipe(recipe, [runs]))


def test_a_run_folder_in_use_is_left_alone(recipe, runs):
    with lock(Path(runs[5:])), pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        _in_other_process_lock(Path(runs[5:]))


def _in_other_process_lock(folder: Path) -> None:
    code = "import sys, pathlib, rlhf_e2h.runner.run_files as f\nwith f.lock(pathlib.Path(sys.argv[1])): pass"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(done.stderr.strip().splitlines()[-1])


def test_ctrl_c_leaves_a_run_that_goes_on(recipe, runs):
    # many problems, each a chunk of its own: a minute and more of sampling, so that the signal arrives in the middle
    slow = [
        "pretrain.shape={hidden: 128, layers: 4, intermediate: 256, heads: 4}",
        "prepare.test_per_level=[60, 60, 60, 60, 60]",
        "sample.decoding={n: 16, max_new_tokens: 200}",
        "sample.chunk=1",
    ]
    command = [sys.executable, "-m", "rlhf_e2h", "run", str(recipe), runs, *slow]
    # a test run that was started in the background passes on that Ctrl-C is ignored
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    deadline = time.monotonic() + 240
    while not list(Path(runs[5:]).glob("sample/*/_partial/sampling/rows-*.jsonl")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "start the same command again" in errors and "Traceback" not in errors
    assert len(list(Path(runs[5:]).glob("*/*/done.json"))) == 3
