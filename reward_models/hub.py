"""Models of the hub: whether they can be asked for at all."""

from __future__ import annotations

import functools
import os

from reward_models.causes import explained

SECONDS = 10.0  # to wait for the hub's first answer


@functools.cache
def check_reachable(name: str) -> None:
    """See with one request that a model of the hub can be had; folders and models in the cache pass.

    The library itself asks for one file after another and tries each six times, so that without a network minutes pass
    before it says so.

    Raises:
        FileNotFoundError: the hub cannot be reached, or may not be asked, and the cache has no such model.
        ValueError: no name of a model.
    """
    if os.path.isdir(os.path.expanduser(name)):
        return
    with explained(name):
        from huggingface_hub import constants, get_session, hf_hub_url, try_to_load_from_cache
        from huggingface_hub.errors import OfflineModeIsEnabled

        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled(name)
        get_session().head(hf_hub_url(name, "config.json"), timeout=SECONDS)
