"""Models of the hub: whether they can be had."""

from __future__ import annotations

from reward_models.causes import explained
from reward_models.hub import check_reachable


def check_model(name: str) -> str:
    """See that a hub model can be had, by its config.json alone, which is in the cache after the first time: its path.

    Raises:
        FileNotFoundError: it cannot be had; the message says why and what to do.
    """
    import huggingface_hub

    check_reachable(name)
    with explained(name):
        return huggingface_hub.hf_hub_download(name, "config.json")
