"""The scoring layer of a token classifier: where it is, and models whose layer `transformers` does not build."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel
from transformers.utils import logging as hf_logging

from reward_models.contract import StepContract
from reward_models.one_reader import reads

State = dict[str, torch.Tensor]
HEAD_NAMES = ("score", "classifier")  # what `transformers` calls the last layer of a token classifier


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the load reports and progress bars of `transformers`: an expected new head is no news."""
    if not torch.accelerator.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # where DeepSpeed is installed, it warns that it found no other
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def head_of(model: nn.Module) -> nn.Module:
    """The scoring layer of a token-classification model."""
    for name in HEAD_NAMES:
        head = getattr(model, name, None)
        if isinstance(head, nn.Module):
            return head
    raise ValueError(f"{type(model).__name__} has no layer named {' or '.join(HEAD_NAMES)}; not a token classifier")


def read_weights(folder: str | Path) -> State:
    """All tensors of a checkpoint folder, from one safetensors file or from the shards its index names."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any(Path(name).name != name for name in names):
            raise ValueError(f"{index}: a shard lies outside the folder; the index is not to be trusted")
    else:
        names = ["model.safetensors"]
    state: State = {}
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; only safetensors checkpoints are read")
        state.update(load_file(folder / name))
    return state


def load_mlp_model(path: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, list[str]]:
    """A model with a Linear-ReLU-Linear head, and the names of weights its files lack."""
    config = AutoConfig.from_pretrained(path)
    contract = StepContract.from_config(config, str(path))
    if not reads():
        with torch.device("meta"):
            model, _ = build(config, contract, {})
        return nn.Module.to(model, dtype), []
    model, missing = build(config, contract, read_weights(path))
    return nn.Module.to(model, dtype), missing


def build(config: Any, contract: StepContract, state: State) -> tuple[PreTrainedModel, list[str]]:
    """A model of the contract with the tensors of `state`, and the names of those it lacks."""
    with quiet():
        model = AutoModelForTokenClassification.from_config(config).float()
    if contract.head == "mlp":
        hidden = config.hidden_size
        model.score = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    head = head_of(model)
    if isinstance(head, nn.Linear) and head.bias is not None:
        nn.init.zeros_(head.bias)
    known = model.state_dict()
    fitting = {name: value.float() for name, value in state.items() if name in known}
    missing = model.load_state_dict(fitting, strict=False).missing_keys
    return model.eval(), list(missing)
