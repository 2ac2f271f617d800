"""Models that are not there: the hub out of reach, a gated or misspelt name, half a download; a sentence each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ELSEWHERE = "or download it on another machine (`hf download {0} --local-dir FOLDER`) and give the folder"


def check_model(name: str) -> str:
    """See that a hub model can be had, by its config.json alone, which is in the cache after the first time: its path.

    Raises:
        FileNotFoundError: it cannot be had; the message says why and what to do.
    """
    import huggingface_hub

    with explained(name):
        return huggingface_hub.hf_hub_download(name, "config.json")


@contextmanager
def explained(model: str | Path) -> Iterator[None]:
    """Around everything that opens a model: errors of the libraries become ours.

    Raises:
        FileNotFoundError: the hub cannot be reached, or has no such model for this account.
        ValueError: a weights file is incomplete.
    """
    from huggingface_hub import errors
    from safetensors import SafetensorError

    place = _ELSEWHERE.format(model)
    try:
        yield
    except errors.GatedRepoError:
        raise FileNotFoundError(
            f"model {str(model)!r} is gated: accept its terms at https://huggingface.co/{model}, then `hf auth login`; "
            f"{place}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise FileNotFoundError(
            f"the hub has no model {str(model)!r} for this account: check the spelling, or `hf auth login` if it is "
            "private; a folder is given as a path that exists"
        ) from None
    except errors.EntryNotFoundError as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(model, place) from None
        raise FileNotFoundError(f"{model}: has no config.json, so it is no model; check the name") from None
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, ConnectionError):
        raise _unreachable(model, place) from None
    except SafetensorError as error:
        raise ValueError(
            f"{model}: a weights file is incomplete or no safetensors file ({error}); delete it and download it again "
            f"(`hf download {model} --force-download`; in a git clone `git lfs pull`)"
        ) from None


def _unreachable(model: str | Path, place: str) -> FileNotFoundError:
    return FileNotFoundError(
        f"model {str(model)!r} is neither a folder here nor in the cache, and the hub cannot be reached: check the "
        f"network, proxy and HF_ENDPOINT (and HF_HUB_OFFLINE, which forbids asking), {place}"
    )
