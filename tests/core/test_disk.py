"""Too little room on the disk is said before a stage starts."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.disk import Room, check_room, room_for
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.preflight import check_disk
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.store import Store

# tokens 259 x 16 (tied), and in one layer 4 x 16 x 16 + 3 x 16 x 16 + 2 x 16, and 16 of the last norm
PARAMETERS = 259 * 16 + 7 * 16 * 16 + 2 * 16 + 16
SCORER = PARAMETERS + 16 + 1


@pytest.fixture
def stages(recipe: Path) -> Path:
    """The small recipe with stages that write weights; none of these is run."""
    common = 'data: "@prepare"\n'
    for name, text in {
        "4_sft.yaml": 'stage: sft\npolicy: "@pretrain"\n' + common,
        "5_sft_kept.yaml": 'stage: sft\npolicy: "@sft"\ntraining: {save_steps: 5}\n' + common,
        "6_sft_lora.yaml": 'stage: sft\npolicy: "@pretrain"\ntraining: {bf16: true, lora: {r: 2}}\n' + common,
        "7_orm.yaml": 'stage: reward\nkind: orm\nbase: "@pretrain"\nreference_solutions: true\n' + common,
        "8_rest.yaml": 'stage: rest\npolicy: "@sft"\nreward_model: "@orm"\nrounds: 3\nproblems: 2\n' + common,
    }.items():
        (recipe / name).write_text(text)
    (recipe / "0_pretrain.yaml").write_text(
        "stage: pretrain\ntokenizer: byte\nshape: {hidden: 16, layers: 1, intermediate: 16, heads: 1}\n"
        "training: {max_steps: 0}\n"
    )
    return recipe


def test_weights_by_the_settings_of_a_stage(stages: Path, runs: str) -> None:
    store = Store(load_recipe(stages, [runs]))
    found = {name: room_for(store, spec, 0) for name, spec in store.recipe.stages.items()}
    assert found["pretrain"] == found["sft"] == Room(4 * PARAMETERS, 0)
    # one checkpoint and the next, each with weights and two moments
    assert found["sft_kept"] == Room(4 * PARAMETERS, 2 * 12 * PARAMETERS)
    assert found["sft_lora"] == Room(2 * PARAMETERS, 0)
    assert found["orm"] == Room(4 * SCORER, 0)
    assert found["rest"] == Room(4 * PARAMETERS, 3 * 4 * PARAMETERS)
    assert found["prepare"] == found["icl"] == found["sample"] == Room(0, 0)  # problems are not known yet


def test_samples_once_their_problems_are_known(stages: Path, runs: str) -> None:
    for name in ("pretrain", "prepare", "icl"):
        run_recipe(load_recipe(stages, [runs]), only=name)
    store = Store(load_recipe(stages, [runs]))
    text = 10 * 2 * (6 * 4 + 150)  # problems, samples, tokens
    assert room_for(store, store.recipe.stages["sample"], 0) == Room(text, text)
    rest = room_for(store, store.recipe.stages["rest"], 0)
    assert rest.kept == 4 * PARAMETERS + 3 * 2 * 32 * (256 * 4 + 150)
    identity, _ = store.identity(store.recipe.stages["sample"], 0)
    part = store.folder(store.recipe.stages["sample"], identity) / "_partial/sampling/rows"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 100)  # what a killed run has written
    assert room_for(store, store.recipe.stages["sample"], 0) == Room(text, text - 100)


def test_it_is_said_before_anything_runs(stages: Path, runs: str) -> None:
    store = Store(load_recipe(stages, [runs]))
    pairs = [(spec, 0) for spec in store.recipe.stages.values()]
    needed = (
        4 * 4 * PARAMETERS + 2 * PARAMETERS + 4 * SCORER + 2 * 12 * PARAMETERS
    )  # and the largest of what goes again
    check_disk(store, pairs, free=needed)
    with pytest.raises(
        ConfigError, match=r"what is to be run \(sft_kept \d+ kB, rest .*: needs \d+ kB, and \d+ kB are"
    ):
        check_disk(store, pairs, free=needed - 1)
    assert not Path(runs[5:]).exists()
    check_disk(store, [(store.recipe.stages["prepare"], 0)], free=0)  # of which nothing can be told


def test_finished_stages_need_nothing(stages: Path, runs: str) -> None:
    run_recipe(load_recipe(stages, [runs]), only="pretrain")
    store = Store(load_recipe(stages, [runs]))
    check_disk(store, [(store.recipe.stages["pretrain"], 0)], free=0)
    done = next(Path(runs[5:]).glob("pretrain/*/done.json"))
    assert json.loads(done.read_text())["files"]["model.safetensors"]
    written = (done.parent / "model.safetensors").stat().st_size
    assert 4 * PARAMETERS <= written < 4 * PARAMETERS + 5000  # the header


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    check_room("a", 1, tmp_path / "not/yet")
    with pytest.raises(ConfigError, match=re.escape("a: needs 2 kB, and 1 kB are free on the disk of")):
        check_room("a", 2000, tmp_path / "not/yet", free=1000)
    with pytest.raises(ConfigError, match="a: needs 1e"):
        check_room("a", 1e30, tmp_path)
