"""The ten lines of the README, run as they stand but for the path."""

import re
import runpy
from pathlib import Path

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


def test_commands_of_the_readme_exist():
    commands = re.findall(r"python -m reward_models (\w+)", README)
    assert commands and set(commands) <= {"train", "score", "rerank", "serve", "export"}
