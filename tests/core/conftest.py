"""A small real recipe: random base model, prepared procedural problems, an in-context policy."""

from pathlib import Path

import pytest

FILES = {
    "recipe.yaml": "name: small\nvariables: {shots: 1}\n",
    "0_pretrain.yaml": (
        "stage: pretrain\nshape: {hidden: 16, layers: 1, intermediate: 16, heads: 1}\ntraining: {max_steps: 0}\n"
    ),
    "1_prepare.yaml": (
        "stage: prepare\nsource: procedural\ntrain_per_level: [4, 4, 4, 4, 4]\ntest_per_level: [2, 2, 2, 2, 2]\n"
    ),
    "2_icl.yaml": 'stage: icl\npolicy: "@pretrain"\ndata: "@prepare"\nshots: ${shots}\n',
    "3_sample.yaml": (
        'stage: sample\npolicy: "@icl"\ndata: "@prepare"\nsplit: test\nchunk: 4\ndecoding: {n: 2, max_new_tokens: 6}\n'
    ),
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> str:
    return f"runs={tmp_path / 'runs'}"
