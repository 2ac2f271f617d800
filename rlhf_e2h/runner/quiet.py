"""Libraries that speak up only for errors."""

from __future__ import annotations

import logging
import os
import warnings
from pathlib import Path

from rlhf_e2h.parallel.gpus import set_allocator


def quiet_libraries() -> None:
    """Our output is progress and results; libraries speak up only for errors."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    set_allocator(os.environ)
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it found no other
    warnings.filterwarnings("ignore")
    for name in ("transformers", "trl", "accelerate", "datasets", "torch", "peft", "bitsandbytes", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
