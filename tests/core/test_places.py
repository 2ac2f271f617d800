"""Models that an output names by path, found where the run and they are now."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_e2h.runner.places import known_places, name_of, note_places, place_of
from rlhf_e2h.runner.run_files import write_json


@pytest.fixture
def icl(tmp_path: Path) -> Path:
    """An output of a run that came from elsewhere; its inputs were a stage's, an asset and two folders."""
    folder = tmp_path / "run" / "icl" / "0123"
    folder.mkdir(parents=True)
    inputs = {"@sft": ["a"], "asset:base": ["b"], "~/models/qwen": ["c"], "/data/other": ["d"], "../near/llama": ["e"]}
    write_json(folder / "done.json", {"inputs": inputs})
    (tmp_path / "run" / "sft" / "4567").mkdir(parents=True)
    note_places(tmp_path / "run", {"b": "/here/assets/base", "c": "/here/qwen", "e": "/here/llama"})
    return folder


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("/there/run/sft/4567", "{run}/sft/4567"),
        ("../../sft/4567", "{run}/sft/4567"),
        ("/there/site-packages/rlhf_e2h/assets/base", "/here/assets/base"),
        ("/home/someone/models/qwen", "/here/qwen"),
        ("/somewhere/near/llama", "/here/llama"),
        ("/data/other", "/data/other"),  # an input that nobody has said where it is
        ("/data/unknown", "/data/unknown"),
        ("someone/hub-model", "someone/hub-model"),
        ("{run}", "{run}"),  # it is there
    ],
)
def test_place_of(icl: Path, name: str, place: str) -> None:
    run = str(icl.parents[1])
    assert place_of(icl, name.format(run=run)) == place.format(run=run)


def test_names_inside_a_run_hold_no_path_of_the_machine(icl: Path) -> None:
    run = icl.parents[1]
    assert name_of(run / "sft/4567", icl, run) == "../../sft/4567"
    assert name_of(Path("/models/qwen"), icl, run) == "/models/qwen"
    assert name_of(Path("someone/hub-model"), icl, run) == "someone/hub-model"


def test_places_add_up(icl: Path) -> None:
    note_places(icl.parents[1], {"c": "/moved/qwen", "f": "/new"})
    known = known_places(icl.parents[1])
    assert (known["b"], known["c"], known["f"]) == ("/here/assets/base", "/moved/qwen", "/new")
