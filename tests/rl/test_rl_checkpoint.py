"""Checkpoints of PPO on a disk that is full, or nearly."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from rlhf_e2h.rl.checkpoint import last_checkpoint, save_checkpoint

WEIGHTS = {"model.safetensors": {"w": torch.zeros(1000)}}  # 4,000 bytes


def write(root, step, keep=1):
    save_checkpoint(root, step, WEIGHTS, {"kl_coef": 0.1}, keep)
    return sorted(folder.name for folder in root.iterdir())


def test_so_many_are_kept(tmp_path):
    assert [write(tmp_path, step, keep=2) for step in (1, 2, 3)][-1] == ["step_000002", "step_000003"]
    assert write(tmp_path, 4) == ["step_000004"]


@pytest.mark.parametrize(("free", "left_while_writing"), [(4_000, 2), (3_999, 0)])
def test_old_ones_go_first_only_where_the_disk_cannot_hold_one_more(
    tmp_path, monkeypatch, caplog, free, left_while_writing
):
    for step in (1, 2):
        write(tmp_path, step, keep=2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    seen = []
    monkeypatch.setattr("rlhf_e2h.rl.checkpoint.save_file", lambda *_: seen.append(len(list(tmp_path.glob("step_*")))))
    with pytest.raises(FileNotFoundError):  # nothing was written: it is counted what stood at that time
        save_checkpoint(tmp_path, 3, WEIGHTS, {}, keep=2)
    assert seen == [left_while_writing]
    assert ("is removed before the next checkpoint" in caplog.text) == (left_while_writing == 0)
    assert (last_checkpoint(tmp_path) is None) == (left_while_writing == 0)
