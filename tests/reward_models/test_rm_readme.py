"""The ten lines of the README, run as they stand but for the path."""

import re
import runpy
from pathlib import Path

import pytest

import reward_models

README = Path(reward_models.__file__).with_name("README.md").read_text(encoding="utf-8")


def test_the_reranker_of_the_readme_runs(prm, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 10 and "path/to/checkpoint" in code
    script = tmp_path / "ten_lines.py"
    script.write_text(
        code.replace("path/to/checkpoint", str(prm[0])).replace("reranker.rank", "ranked = reranker.rank")
    )
    ranked = runpy.run_path(str(script))["ranked"]
    assert len(ranked) == 1 and set(ranked[0]) == {"corpus_id", "score", "text", "step_scores"}


@pytest.mark.parametrize("kind", ["prm", "orm"])
def test_examples_of_the_model_card_give_the_same_scores(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)[0]
    card = (folder / "README.md").read_text(encoding="utf-8")
    ours, plain = (code.replace("PATH", str(folder)) for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL))
    for name, code in (("ours", ours.replace("scorer.score(", "scores = scorer.score(")), ("plain", plain)):
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    (expected,) = runpy.run_path(str(tmp_path / "ours.py"))["scores"]
    assert "reward_models" not in plain and "pipeline_tag" not in card
    assert runpy.run_path(str(tmp_path / "plain.py"))["scores"] == pytest.approx(expected.steps, abs=1e-5)


def test_commands_of_the_readme_exist():
    commands = re.findall(r"python -m reward_models (\w+)", README)
    assert commands and set(commands) <= {"train", "score", "rerank", "serve", "export"}
