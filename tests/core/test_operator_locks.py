"""Locks of compiled operators: one that is held is waited for, one that was left is named."""

import os
import signal
import subprocess
import sys

import pytest

from rlhf_e2h.runner import operator_locks
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.tools import doctor

# torch's own lock, as its compiler takes it
HOLDER = """
import sys, time
from torch.utils.file_baton import FileBaton
assert FileBaton(sys.argv[1]).try_acquire()
print("held", flush=True)
time.sleep(600)
"""


def test_a_lock_is_abandoned_once_its_holder_was_killed(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    lock = tmp_path / "built" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        operator_locks.check()
        assert list(doctor.compiler()) == []
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    [finding] = doctor.compiler()
    assert finding.level == "problem" and str(lock) in finding.detail and f"rm {lock}" in finding.fix
    with pytest.raises(ConfigError, match=r"DeepSpeed would wait for ever: .*killed while it compiled; remove it"):
        run_recipe(load_recipe(recipe, [f"runs={tmp_path / 'runs'}"]), only="prepare", launch="zero2.yaml")
    lock.unlink()
    operator_locks.check()
