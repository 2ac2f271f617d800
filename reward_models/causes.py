"""Errors of libraries that a person can do something about: how each kind is known, and what to say of it.

One table for both command lines. Kinds are known by names of classes and words of messages, so that nothing is imported
here for an error that never comes.
"""

from __future__ import annotations

import dis
import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ELSEWHERE = "or download it on another machine (`hf download {0} --local-dir FOLDER`) and give the folder"
_SMALLER = (
    "lower per_device_train_batch_size (decoding: batch_size), which does not change the result, or set "
    "gradient_checkpointing, LoRA or --launch zero3.yaml; `e2h plan RECIPE` says what fits"
)


@dataclass(frozen=True)
class Cause:
    """A kind of error: names of classes (a base counts), words of the message, and the sentence to say.

    In the sentence `{0}` stands for the model that was being opened, `{error}` for the first line of the message.
    """

    kinds: str
    words: str
    sentence: str
    package: str = ""  # only where the class comes from this one
    missing: bool = False  # something is not there: FileNotFoundError, not ValueError

    def fits(self, error: BaseException) -> bool:
        bases = [kind for kind in type(error).__mro__ if kind.__name__ in self.kinds.split()]
        known = any(kind.__module__.split(".")[0].startswith(self.package) for kind in bases)
        return known and re.search(self.words, str(error), re.IGNORECASE) is not None


# Around a model that is being opened. Here and below the first row that fits decides.
OPENING = (
    Cause(
        "GatedRepoError", "",
        "model {0!r} is gated: accept its terms at https://huggingface.co/{0}, then `hf auth login`; " + _ELSEWHERE,
        missing=True,
    ),
    Cause(
        "RepositoryNotFoundError HFValidationError", "",
        "the hub has no model {0!r} for this account: check the spelling, or `hf auth login` if it is private; a "
        "folder is given as a path that exists",
        missing=True,
    ),
    Cause(
        "RemoteEntryNotFoundError", "", "{0}: has no config.json, so it is not a model; check the name", missing=True
    ),
    Cause(
        "LocalEntryNotFoundError OfflineModeIsEnabled HfHubHTTPError ConnectionError TransportError", "",
        "model {0!r} is neither a folder here nor in the cache, and the hub cannot be reached: check the network, "
        "proxy and HF_ENDPOINT (and HF_HUB_OFFLINE, which forbids asking), " + _ELSEWHERE,
        missing=True,
    ),
    Cause(
        "OSError", "does not appear to have a file named (pytorch_model|model)",
        "model {0!r} has no weights: model.safetensors, or model.safetensors.index.json and its parts, are missing "
        "beside its config.json; download it again, or convert weights of another kind (.gguf) first",
        missing=True,
    ),
    Cause(
        "SafetensorError", "",
        "{0}: a weights file is incomplete or no safetensors file ({error}); delete it and download it again "
        "(`hf download {0} --force-download`; in a git clone `git lfs pull`)",
    ),
    Cause(
        "ValueError KeyError OSError", "does not recognize this architecture|unrecognized (model|configuration)|"
        "trust_remote_code",
        "{0}: transformers cannot open this kind of model without code from the repository, which is never run here; "
        "take a model whose class transformers has (`model_type` in its config.json), or a newer transformers",
    ),
    Cause(
        "ValueError OSError", "instantiate the backend tokenizer|can't load tokenizer",
        "{0}: no tokenizer that can be read; tokenizer.json and tokenizer_config.json are needed beside the model",
    ),
    Cause(
        "RuntimeError", "size mismatch|ignore_mismatched_sizes",
        "{0}: the weights do not have the shapes that config.json says ({error}); they belong to another model or "
        "vocabulary: download the folder again as a whole",
    ),
)  # fmt: skip
ANYWHERE = (
    Cause("OutOfMemoryError", "", "the GPU is out of memory ({error}): " + _SMALLER),
    Cause(
        "MemoryError RuntimeError", r"^$|out of memory|can.t allocate memory|unable to allocate|ALLOC_FAILED",
        "out of memory ({error}): " + _SMALLER,
    ),
    Cause(
        "IndexError RuntimeError", "index out of range in self|device-side assert|Assertion .*srcIndex",
        "a token has no row in the model's embedding ({error}): the tokenizer has more tokens than the model, or a pad "
        "or end token was added without resizing; take the tokenizer that belongs to the model, or resize its "
        "embedding to len(tokenizer) and save it again",
    ),
    Cause(
        "Error", "", "wandb: {error}; `wandb login`, set WANDB_API_KEY, or run without it (wandb.mode=offline)",
        package="wandb",
    ),
    Cause(
        "HfHubHTTPError ConnectionError LocalEntryNotFoundError TransportError", "",
        "the hub, or another server, cannot be reached or refuses ({error}): check the network, proxy, HF_ENDPOINT and "
        "`hf auth login`, and start the same command again",
    ),
    Cause(
        "RuntimeError AcceleratorError", "nvidia driver|cuda driver|no kernel image|CUDA error|HIP error",
        "the GPU cannot be used ({error}); `e2h doctor` looks for the reason",
    ),
    Cause(
        "DistBackendError DistNetworkError DistStoreError RuntimeError", r"nccl|gloo|connection closed by peer|"
        r"connection reset by peer|timed out|timeout",
        "the processes of this launch have lost one another ({error}): one has ended (its message stands above) or "
        "waits; start the same command again, it resumes",
        package="torch",
    ),
    Cause("OSError", "address already in use", "{error}; another process uses this port: give another one"),
    Cause("PermissionError", "", "{error}: this account may not use it; give a folder of yours (runs=PATH)"),
    Cause(
        "OSError", "read-only file system|too many open files|stale file handle|input/output error",
        "{error}: the disk or its limits, not the settings; give another folder (runs=PATH), or raise `ulimit -n`",
    ),
    Cause("IsADirectoryError", "", "{error}: a file is needed here, not a folder"),
    Cause("NotADirectoryError FileExistsError", "", "{error}: a folder is needed here, and a file has its name"),
    Cause("UnicodeDecodeError", "", "a file is not UTF-8 text ({error}); convert it, for instance by `iconv -t UTF-8`"),
    *OPENING[4:],
)  # fmt: skip
_EXTRAS = {
    "deepspeed": "deepspeed", "vllm": "vllm", "bitsandbytes": "qlora", "fastapi": "serve", "uvicorn": "serve",
    "prometheus_client": "serve", "wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio",
}  # fmt: skip


def foreseen(error: BaseException) -> str | None:
    """The sentence for an error, or for what led to it; None for one that nobody foresaw."""
    for one in _chain(error):
        if isinstance(one, ImportError) and (extra := _EXTRAS.get((one.name or "").split(".")[0])):
            return f"{one.name} is not installed; run `pip install 'rlhf_e2h[{extra}]'`"
        if is_full(one):
            return f"no room on the disk ({_first_line(one)}): make room and start the same command again; it resumes"
        if found := _look_up(one, ANYWHERE, "this model"):
            return found[1]
    return None


def say(error: BaseException) -> tuple[str, bool]:
    """(what to print for an error that ended a command, whether it was foreseen). Notes of the error are added."""
    notes = "".join(f" [{note}]" for note in getattr(error, "__notes__", []))
    raised, ours = _raised(error)
    if ours and isinstance(error, _MESSAGES) and raised:
        return str(error), True
    if sentence := foreseen(error):
        return sentence + notes, True
    if isinstance(error, _MESSAGES) and raised:
        return str(error) + notes, True
    message = str(error).strip().partition("\n")[0]
    return f"an error that nobody foresaw, {type(error).__name__}: {message}{notes}", False


_MESSAGES = (ValueError, FileNotFoundError, FloatingPointError)  # what is raised to tell a person something


def _raised(error: BaseException) -> tuple[bool, bool]:
    """(whether a `raise` raised it, whether one of ours did).

    A ValueError out of an operation (`zip() argument 2 is longer than argument 1`) tells nobody what to do.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:  # made, and not raised: it came from another process
        return True, True
    frame = trace.tb_frame
    package = str(frame.f_globals.get("__name__", "")).split(".")[0]
    return dis.opname[frame.f_code.co_code[trace.tb_lasti]] in ("RAISE_VARARGS", "RERAISE"), package in _OURS


_OURS = ("reward_models", "rlhf_e2h")


@contextmanager
def explained(model: str | Path) -> Iterator[None]:
    """Around everything that opens a model: errors of the libraries become a sentence each.

    Raises:
        FileNotFoundError: the hub cannot be reached, or has no such model for this account, or it has no weights.
        ValueError: its files are incomplete or do not belong together.
    """
    try:
        yield
    except Exception as error:
        for one in _chain(error):
            if found := _look_up(one, OPENING, str(model)):
                cause, sentence = found
                raise (FileNotFoundError if cause.missing else ValueError)(sentence) from None
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error, however a library reports it, is a disk without room."""
    words = ("no space left", "file too large", "disk quota", "os error 28", "os error 27", "file write failed")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        return True
    return any(word in str(error).lower() for word in words)


def _look_up(error: BaseException, table: Sequence[Cause], model: str) -> tuple[Cause, str] | None:
    cause = next((row for row in table if row.fits(error)), None)
    return (cause, cause.sentence.format(model, error=_first_line(error))) if cause else None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300].rstrip(".") if lines else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
