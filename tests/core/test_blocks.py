"""Work in blocks: every item once, whoever does it, also after a kill; who is slow does less."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from rlhf_e2h.parallel import blocks
from rlhf_e2h.parallel.blocks import Parts, in_blocks
from rlhf_e2h.parallel.processes import collective_timeout
from rlhf_e2h.runner.config import ConfigError

ALONE = SimpleNamespace(num_processes=1, process_index=0, device=None)


def squares(start, end, spend):
    spend(end - start, 0.5)
    return [{"item": i, "square": i * i} for i in range(start, end)]


def test_all_rows_in_order_and_what_they_cost(tmp_path):
    seen, spent = [], []
    parts = in_blocks(tmp_path, 11, 4, ALONE, squares, seen.append)
    assert [row["square"] for row in parts.rows()] == [0, 1, 4, 9, 16, 25, 36, 49, 64, 81, 100]
    parts.spend(lambda *cost: spent.append(cost))
    assert spent == [(11, 1.5)] and seen == [4, 8, 11]
    assert list(in_blocks(tmp_path / "none", 0, 4, ALONE, squares).rows()) == []


def test_a_killed_run_is_resumed_where_it_stopped_also_with_other_blocks(tmp_path):
    def fails(start, end, spend):
        if start >= 8:
            raise KeyboardInterrupt
        return squares(start, end, spend)

    with pytest.raises(KeyboardInterrupt):
        in_blocks(tmp_path, 20, 4, ALONE, fails)
    asked = []

    def noted(start, end, spend):
        asked.append((start, end))
        return squares(start, end, spend)

    parts = in_blocks(tmp_path, 20, 6, ALONE, noted)
    assert asked == [(8, 12), (12, 18), (18, 20)]  # blocks of 6 now; 0 to 8 were saved
    assert [row["item"] for row in parts.rows()] == list(range(20))


def test_blocks_that_take_long_are_followed_by_smaller_ones(tmp_path):
    def slow(start, end, spend):
        time.sleep(0.01 * (end - start))
        return squares(start, end, spend)

    parts = in_blocks(tmp_path, 64, 32, ALONE, slow, seconds=0.1)
    sizes = [end - start for start, end in parts.found().items()]
    assert sizes[0] == 32 and max(sizes[1:]) <= 10  # 32 x .01 s for .1 s: a third or less
    assert [row["item"] for row in parts.rows()] == list(range(64))


def test_blocks_do_not_shrink_below_what_is_computed_together(tmp_path):
    def slow(start, end, spend):
        time.sleep(0.15)
        return squares(start, end, spend)

    parts = in_blocks(tmp_path, 12, 4, ALONE, slow, seconds=0.1, least=4)
    assert parts.found() == {0: 4, 4: 8, 8: 12}


def test_gaps_by_hand(tmp_path):
    parts = Parts(tmp_path, 10)
    for start, end in ((2, 4), (7, 8)):
        parts.save(start, end, squares(start, end, lambda *_: None), (0, 0))
    assert list(parts.gaps(0, 10)) == [(0, 2), (4, 7), (8, 10)]
    assert list(parts.gaps(3, 8)) == [(4, 7)]
    assert list(parts.gaps(2, 4)) == []
    assert parts.done() == 3


def test_waiting_for_processes_that_save_nothing_ends(tmp_path, monkeypatch):
    """Another process has taken the only block, and is gone."""
    (tmp_path / "claim-00000000").touch()
    monkeypatch.setenv("E2H_TIMEOUT_HOURS", str(0.5 / 3600))
    second = SimpleNamespace(num_processes=2, process_index=1, device=None)
    with pytest.raises(TimeoutError, match=r"3 of 3 items are missing .*E2H_TIMEOUT_HOURS"):
        in_blocks(tmp_path, 3, 4, second, squares)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_a_timeout_that_is_not_a_number_of_hours_is_refused(monkeypatch, text):
    monkeypatch.setenv("E2H_TIMEOUT_HOURS", text)
    with pytest.raises(ConfigError, match=f"E2H_TIMEOUT_HOURS is '{text}'; give a number of hours"):
        collective_timeout()


# rank 1 needs ten times as long for an item; a collective of theirs may take two seconds
WORKER = """
import json, os, sys, time
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from types import SimpleNamespace
from rlhf_e2h.parallel.blocks import in_blocks
folder, pause = Path(sys.argv[1]), [0.02, 0.3][int(os.environ["RANK"])]
dist.init_process_group("gloo", timeout=timedelta(seconds=2))
rank = SimpleNamespace(num_processes=2, process_index=dist.get_rank(), device=None)
def work(start, end, spend):
    with (folder.parent / f"asked-{rank.process_index}").open("a") as file:
        file.write(f"{start}\\n")
    time.sleep(pause * (end - start))
    return [{"item": i, "rank": rank.process_index} for i in range(start, end)]
parts = in_blocks(folder, 60, 4, rank, work)
assert [row["item"] for row in parts.rows()] == list(range(60))
(folder.parent / f"done-{rank.process_index}").touch()
"""


def start(folder, port):
    folder.parent.mkdir(parents=True, exist_ok=True)
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(folder)]
    return [subprocess.Popen(command, env={**os.environ, **common, "RANK": str(rank)}) for rank in (0, 1)]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_of_two_processes_the_slow_one_does_less_and_a_kill_loses_one_block(tmp_path):
    """The slow one is killed in the middle. The others of a real launch are stopped with it; both start again."""
    folder = tmp_path / "parts"
    fast, slow = start(folder, free_port())
    deadline = time.monotonic() + 60
    while not (tmp_path / "asked-1").exists() or len(list(folder.glob("rows-*"))) < 3:
        assert time.monotonic() < deadline and slow.poll() is None
        time.sleep(0.01)
    slow.kill()
    time.sleep(0.3)
    fast.kill()
    assert fast.wait() == slow.wait() == -9
    before = {path.name: path.read_bytes() for path in folder.glob("rows-*")}
    lost = sum(len(file.read_text().split()) for file in tmp_path.glob("asked-*")) - len(before)
    assert before and 0 <= lost <= 2  # at most the block that each was working on
    processes = start(folder, free_port())
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert all((folder / name).read_bytes() == content for name, content in before.items())
    rows = [json.loads(line) for path in sorted(folder.glob("rows-*")) for line in path.read_text().splitlines()[1:]]
    assert [row["item"] for row in rows] == list(range(60))
    assert sum(row["rank"] == 0 for row in rows) > sum(row["rank"] == 1 for row in rows) > 0
    assert blocks.SAVE_SECONDS <= 120
