"""A source of data touches one file: one that no other file names is prepared, planned and checked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import rlhf_e2h.data
from rlhf_e2h.data.firewall import read_labels, read_problems
from rlhf_e2h.data.sources import find_source, sources
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.preflight import check_inputs
from rlhf_e2h.runner.recipe import Recipe, load_recipe
from rlhf_e2h.tools.plan import data

RIDDLES = """
from rlhf_e2h.data.example import Example
from rlhf_e2h.data.sources import Source


def read(rows, origin, intake, settings):
    for index, row in enumerate(rows):
        name = f"riddles-{origin}-{index}"
        yield Example(name, row.text("ask"), row.fields["stars"], "", row.text("say"), "Think.", "riddles", origin)


SOURCE = Source("riddles", problems=read, counts=(700, 30, 20), tokens=(12, 34))
"""
WALKS = """
from rlhf_e2h.data.solutions import Solution
from rlhf_e2h.data.sources import Source


def read(rows, settings):
    for row in rows:
        yield Solution(row.where, row.text("ask"), row.text("ask"), ("Go.", "Stop."), (1, 0))


SOURCE = Source("walks", solutions=read, counts=(80, 0, 0), step_records=60)
"""


@pytest.fixture
def two_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "riddles.py").write_text(RIDDLES)
    (folder / "walks.py").write_text(WALKS)
    monkeypatch.setattr(rlhf_e2h.data, "__path__", [*rlhf_e2h.data.__path__, str(folder)])
    sources.cache_clear()
    yield
    sources.cache_clear()
    for name in ("riddles", "walks"):
        sys.modules.pop(f"rlhf_e2h.data.{name}", None)


def rows(side: str, count: int) -> list[dict[str, object]]:
    names = "abcdefghij"
    return [{"ask": f"{side} {names[n] * 5} {names[n] * 7}?", "stars": 1 + n % 5, "say": str(n)} for n in range(count)]


def recipe_of(folder: Path, train: Path) -> Recipe:
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: riddles\n")
    (folder / "1_riddles.yaml").write_text(f"stage: prepare\nsource: riddles\ntrain: {train}\ntest: {train}\n")
    (folder / "2_walks.yaml").write_text(f"stage: prepare\nsource: walks\nproblems: '@riddles'\nrecords: ['{train}']\n")
    return load_recipe(folder)


def test_a_source_of_problems_and_one_of_solutions_are_prepared(
    two_new: None, run_prepare: Callable[..., Path], jsonl: Callable[..., Path]
) -> None:
    train, test = jsonl("train.jsonl", rows("train", 10)), jsonl("test.jsonl", rows("test", 5))
    out = run_prepare("riddles", source="riddles", train=str(train), test=str(test))
    assert [row["problem_id"] for row in read_problems(out, "test")] == [f"riddles-test-{n}" for n in range(5)]
    assert read_labels(out, "full")["riddles-train-3"].solution == "Think.\n\n# Answer\n\n3"
    walks = run_prepare("walks", source="walks", problems=str(out), records=[str(train)])
    assert json.loads((walks / "summary.json").read_text())["step records"] == {
        "stepwise_easy.jsonl": 6,  # two problems of each level of three
        "stepwise_full.jsonl": 10,
    }


def test_they_are_planned_and_checked(two_new: None, tmp_path: Path, jsonl: Callable[..., Path]) -> None:
    # a Parquet file is not counted by `plan`, so what the source declares is assumed
    recipe = recipe_of(tmp_path / "recipe", tmp_path / "train.parquet")
    numbers = data.token_numbers(recipe, None, None)
    assert (numbers.prompt, numbers.solution) == (12, 34)
    assert data.problems(recipe, "@riddles", "validation", None, None, numbers) == 30
    assert data.easy_labels(recipe, "@walks", "full", numbers) == 80
    assert data.stepwise(recipe, "@walks/stepwise_easy.jsonl", numbers) == 60
    specs = list(recipe.stages.values())
    with pytest.raises(FileNotFoundError, match=r"train\.parquet"):
        check_inputs(specs)
    (tmp_path / "train.parquet").touch()
    check_inputs(specs)


def test_an_unknown_source_is_told_the_nearest(tmp_path: Path) -> None:
    made = {"procedural", "addition", "parity"}
    assert made | {"math", "gsm8k", "jsonl", "apps", "prm800k", "metamath", "shepherd"} == set(sources())
    with pytest.raises(ValueError, match=r"source 'gsm9k' is not known; did you mean 'gsm8k'\?"):
        find_source("gsm9k")
    with pytest.raises(ConfigError, match=r"1_riddles.yaml: source 'riddles' is not known"):
        recipe_of(tmp_path / "recipe", tmp_path / "train.jsonl")
