"""Settings that had another name: whoever still writes the old one is told the new one."""

from __future__ import annotations

RENAMED = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "lora": "training.lora",
    "lora_rank": "lora.r",
}


def renamed(name: str) -> str | None:
    """A sentence with the new name of a setting; None for one that never had another."""
    return f"{name} was renamed to {RENAMED[name]}" if name in RENAMED else None
