import json
import math
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reward_models.records import read_jsonl
from rlhf_e2h.runner.mirrors import About, Mirrors, WandbMirror
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.runner.tracking import Tracker


def test_metrics_are_lines_of_json_and_not_a_number_is_null(tmp_path):
    tracker = Tracker(tmp_path)
    tracker.log({"a/b": 1.5, "bad": math.nan}, step=3)
    tracker.log({"note": "text"})
    tracker.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 3, "a/b": 1.5, "bad": None}, {"note": "text"}]


def test_an_offline_wandb_run_holds_what_metrics_jsonl_holds(recipe, runs):
    """Real wandb, offline: the run file is read back with wandb's own reader."""
    (recipe / "0_pretrain.yaml").write_text(
        "stage: pretrain\nshape: {hidden: 16, layers: 1, intermediate: 16, heads: 1}\n"
        "training: {max_steps: 20, batch_size: 2}\n"
    )
    run_recipe(load_recipe(recipe, [runs, "wandb={project: test, mode: offline}"]), only="pretrain")
    folder = next(Path(runs[5:], "pretrain").iterdir())
    ours = {row["step"]: row["train/loss"] for row in read_jsonl(folder / "metrics.jsonl") if "train/loss" in row}
    theirs = _history(next(folder.glob("wandb/offline-run-*/run-*.wandb")), "train/loss")
    assert ours and theirs == ours


def test_wandb_shows_rounds_one_after_another(tmp_path):
    """DPO counts its steps anew in each round; wandb's own counter would drop the second one."""
    mirror = WandbMirror(About("small", "dpo", "dpo", 0, tmp_path, {}), "test", "offline")
    for step, loss in ((0, 0.9), (10, 0.8), (20, 0.7), (1, 0.6), (10, 0.5)):
        mirror.log({"train/loss": loss}, step)
    mirror.close()
    file, start = next(tmp_path.glob("wandb/offline-run-*/run-*.wandb")), time.monotonic()
    while len(_history(file, "train/loss")) < 5 and time.monotonic() < start + 60:  # another process writes it
        time.sleep(0.2)
    assert _history(file, "train/loss") == {0: 0.9, 10: 0.8, 20: 0.7, 21: 0.6, 30: 0.5}
    metrics = _metrics(file)
    assert metrics["train/loss"].summary.min and metrics["eval/accuracy_easy"].summary.max
    assert {metrics[name].step_metric for name in ("*", "train/loss")} == {"step"}


def _metrics(file: Path) -> dict[str, Any]:
    """What was said of metrics by `define_metric`, by name or pattern."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for data in _records(file.read_bytes()[7:]):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "metric":
            found[record.metric.name or record.metric.glob_name] = record.metric
    return found


def _history(file: Path, name: str) -> dict[int, float]:
    """Values of one metric by step, from the records of a .wandb file."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for data in _records(file.read_bytes()[7:]):  # behind ":W&B", a magic number and a version
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") != "history":
            continue
        items = {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        if name in items:
            found[int(items["step"])] = items[name]
    return found


def _records(data: bytes, block: int = 32768) -> Iterator[bytes]:
    """A LevelDB log: blocks of 32 KiB, chunks of (crc 4, length 2, type 1, data); type 1 is whole, 2 to 4 are parts."""
    position, parts = 7, b""  # the first block began before the part that was cut off
    cursor = 0
    while cursor + 7 <= len(data):
        if block - position % block < 7:
            skip = block - position % block
            cursor, position = cursor + skip, position + skip
            continue
        length, kind = struct.unpack_from("<HB", data, cursor + 4)
        chunk = data[cursor + 7 : cursor + 7 + length]
        cursor, position = cursor + 7 + length, position + 7 + length
        parts += chunk
        if kind in (1, 4):
            yield parts
            parts = b""


def test_sample_tables_settings_and_manifest_are_in_the_offline_run(recipe, runs):
    """Read back from the run's own files: a table of samples with step scores, the stage's settings, what it read."""
    import wandb

    folder = Path(runs[5:])
    folder.mkdir(parents=True)
    about = About("small", "ppo_easy", "ppo", 0, folder, {"training": {"steps": 3}})
    tracker = Tracker(folder, Mirrors({"wandb": lambda: WandbMirror(about, "test", "offline")}))
    tracker.row("samples", {"text": "1+2=3", "step_scores": [0.25, 0.5], "outcome": None})
    tracker.attach({"identity": "abc", "labels_read": [{"file": "labels_easy.jsonl"}]})
    tracker.close()
    assert wandb.run is None
    table = json.loads(next(folder.glob("wandb/offline-run-*/files/media/table/samples_*.table.json")).read_text())
    assert table == {"columns": ["text", "step_scores", "outcome"], "data": [["1+2=3", "0.250 0.500", None]]}
    file = next(folder.glob("wandb/offline-run-*/run-*.wandb"))
    texts = (b'"steps":3', b"labels_easy.jsonl", b"ppo_easy-seed0", b"small")

    def missing() -> list[bytes]:
        data = file.read_bytes().replace(b" ", b"")
        return [text for text in texts if text not in data]

    # wandb's own process may still be writing when `finish` has returned
    deadline = time.monotonic() + 30
    while missing() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not missing()
