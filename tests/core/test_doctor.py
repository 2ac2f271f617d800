"""`e2h doctor`, `e2h completion`, the first screen of help, and what ships inside the package."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_e2h.cli import main
from rlhf_e2h.runner import packaged
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.traits import STAGES
from rlhf_e2h.tools import doctor

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))


def only(findings: Iterator[doctor.Finding], what: str) -> doctor.Finding:
    (found,) = (finding for finding in findings if finding.what == what)
    return found


def test_doctor_looks_at_everything(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--offline", "--json"])
    findings = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"python", "packages", "base model", "disk (runs)", "disk (hub)", "memory", "sandbox", "hub"} <= set(
        findings
    )
    assert any(what.startswith("gpu") for what in findings)
    assert all(row["fix"] for row in findings.values() if row["level"] != "ok")
    assert code == int(any(row["level"] == "problem" for row in findings.values()))


def test_doctor_reads_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--offline"])
    shown = capsys.readouterr().out
    assert "note     hub          not asked (offline)\n                      -> give model folders" in shown


def test_missing_and_old_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["numpy>=99", "no-such-package-e2h>=1", 'vllm-of-nobody>=1; extra == "vllm"', "pyyaml>=6"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: needs)
    found = {finding.what: finding for finding in doctor.packages()}
    assert found["numpy"].level == "problem" and found["numpy"].fix == "pip install 'numpy>=99'"
    assert found["no-such-package-e2h"].detail == "not installed, needed >=1"
    assert found["[vllm]"].level == "note" and "rlhf_e2h[vllm]" in found["[vllm]"].fix
    assert set(found) == {"numpy", "no-such-package-e2h", "[vllm]"}


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**30, total=2**40))
    assert only(doctor.disk(), "disk (runs)").level == "problem"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=500 * 2**30, total=2**40))
    assert only(doctor.disk(), "disk (runs)").level == "ok"


def test_incomplete_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ASSETS", tmp_path)
    finding = only(doctor.shipped_files(), "base model")
    assert finding.level == "problem" and "pip install --force-reinstall" in finding.fix


def test_unreachable_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens on port 1, so the answer is quick and certain."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: huggingface_hub.hf_api.HfApi(endpoint="http://127.0.0.1:1"))
    finding = only(doctor.hub(False), "hub")
    assert finding.level == "note" and "base=PATH" in finding.fix


def test_wandb_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(doctor.wandb_login(), "wandb").fix
    (tmp_path / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password nothing\n")
    finding = only(doctor.wandb_login(), "wandb")
    assert finding.level == "ok" and "nothing" not in finding.detail


def test_help_fits_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert all(any(kind in line.split() for line in lines) for kind in STAGES)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["completion", shell]) == 0
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    assert "e2h complete" in script.read_text()  # which words it gives is asked in test_command_line
    if shutil.which(shell):
        assert subprocess.run([shell, "-n", str(script)], capture_output=True, check=False).returncode == 0


def test_shipped_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in packaged.names("recipes") and "zero3.yaml" in packaged.names("launch")
    for given in ("quickstart", "recipes/quickstart"):
        assert load_recipe(given).settings.name == "quickstart"
    assert packaged.find("launch", "launch/zero3.yaml").is_file()
    with pytest.raises(FileNotFoundError, match=r"quickstar: no such recipe folder; these ship: .*quickstart"):
        load_recipe("quickstar")
    own = tmp_path / "quickstart"
    own.mkdir()
    assert packaged.find("recipes", "quickstart") == Path("quickstart")  # a folder of one's own comes first
    assert packaged.find("recipes", "../recipes/quickstart") == Path("../recipes/quickstart")
