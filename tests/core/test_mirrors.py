"""`report_to`: the same numbers in TensorBoard and trackio, read back with their own readers; nothing stops a run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reward_models.records import read_jsonl
from rlhf_e2h.cli import main
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.mirrors import About, Mirrors, TensorBoardMirror, check_mirrors, has_wandb_key
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import RecipeSettings, Wandb, load_recipe
from rlhf_e2h.runner.tracking import Tracker

TRAINING = (
    "stage: pretrain\nshape: {hidden: 16, layers: 1, intermediate: 16, heads: 1}\n"
    "training: {max_steps: 12, batch_size: 2}\n"
)


def _losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["train/loss"] for row in read_jsonl(folder / "metrics.jsonl") if "train/loss" in row}


def test_tensorboard_holds_what_metrics_jsonl_holds(recipe, runs):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (recipe / "0_pretrain.yaml").write_text(TRAINING)
    run_recipe(load_recipe(recipe, [runs, "report_to=tensorboard"]), only="pretrain")
    folder = next(Path(runs[5:], "pretrain").iterdir())
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    theirs = {event.step: event.value for event in events.Scalars("train/loss")}
    ours = _losses(folder)
    assert sorted(ours) == [1, 10]  # the first step is logged
    assert theirs == pytest.approx(ours, rel=1e-6)
    # what mirrors a run is no output of it
    assert not [name for name in json.loads((folder / "done.json").read_text())["files"] if "tensorboard" in name]


def test_trackio_holds_what_metrics_jsonl_holds(recipe, runs, tmp_path):
    """In a process of its own: trackio reads where its database is when it is imported."""
    pytest.importorskip("trackio")
    (recipe / "0_pretrain.yaml").write_text(TRAINING)
    code = (
        "import os, sys, json\nos.environ |= {'TRACKIO_DIR': sys.argv[3], 'HF_HUB_OFFLINE': '1'}\n"
        "from rlhf_e2h.cli import main\n"
        "assert main(['run', *sys.argv[1:3], 'report_to=[trackio]', 'name=small', '--only', 'pretrain']) == 0\n"
        "from trackio.sqlite_storage import SQLiteStorage\n"
        "print(json.dumps(SQLiteStorage.get_logs('small', 'pretrain-seed0')))\n"
    )
    command = [sys.executable, "-c", code, str(recipe), runs, str(tmp_path / "trackio")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.strip().splitlines()[-1])
    theirs = {row["step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert theirs == pytest.approx(_losses(next(Path(runs[5:], "pretrain").iterdir())))


def test_online_without_a_key_is_one_sentence_and_the_run_goes_on(recipe, runs, tmp_path, monkeypatch, capsys):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert main(["run", str(recipe), runs, "wandb={project: test, mode: online}", "--only", "prepare"]) == 0
    said = capsys.readouterr().err
    assert said.count("wandb mode online needs a key: `wandb login`, WANDB_API_KEY, or wandb.mode=offline") == 1
    assert said.index("wandb mode online") < said.index("prepare") and "Traceback" not in said
    assert list(Path(runs[5:]).glob("prepare/*/wandb/offline-run-*"))


def test_a_key_is_found_where_wandb_looks_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert not has_wandb_key()
    (tmp_path / ".netrc").write_text("machine wandb.example.org login user password 0123\n")
    assert not has_wandb_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert has_wandb_key()
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert has_wandb_key()


class _Failing:
    """A service that fails after some calls."""

    def __init__(self, calls: int) -> None:
        self.calls = calls

    def log(self, row, step):
        self.calls -= 1
        if self.calls < 0:
            raise RuntimeError("503 from the server\nand more")

    def attach(self, record): ...

    def table(self, name, rows): ...

    def close(self):
        raise AssertionError("a service that has failed is left alone")


def test_a_service_that_fails_is_left_out_and_nothing_is_lost(tmp_path, capsys):
    def never():
        raise OSError("no network")

    tracker = Tracker(tmp_path, Mirrors({"one": never, "other": lambda: _Failing(1)}))
    for step in range(3):
        tracker.log({"loss": 1.0}, step=step)
    tracker.close()
    said = capsys.readouterr().err
    assert said.count("one is left out from here on (no network)") == 1
    assert said.count("other is left out from here on (503 from the server); metrics.jsonl has everything") == 1
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_what_is_not_installed_is_said_before_the_first_stage(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"asks for trackio, which is not installed.*rlhf_e2h\[trackio\]"):
        check_mirrors(RecipeSettings("small", report_to="trackio"))


@pytest.mark.parametrize(
    ("given", "read"), [("none", ()), (None, ()), ("wandb", ("wandb",)), (["trackio"], ("trackio",))]
)
def test_report_to_is_a_name_or_a_list(given, read):
    assert RecipeSettings("small", report_to=given).report_to == read


def test_unknown_mirrors_and_modes_are_refused():
    with pytest.raises(ValueError, match=r"report_to names 'mlflow'; allowed: wandb, tensorboard, trackio"):
        RecipeSettings("small", report_to=["mlflow"])
    with pytest.raises(ValueError, match=r"wandb\.mode is 'onlin'; allowed: online, offline, disabled"):
        RecipeSettings("small", wandb=Wandb(mode="onlin"))


def test_tables_and_settings_are_texts_of_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    about = About("small", "ppo_easy", "ppo", 0, tmp_path, {"steps": 3})
    tracker = Tracker(tmp_path, Mirrors({"tensorboard": lambda: TensorBoardMirror(about)}))
    tracker.row("samples", {"text": "1+2=3", "step_scores": [0.25]})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"settings/text_summary", "samples/text_summary"} <= set(events.Tags()["tensors"])
