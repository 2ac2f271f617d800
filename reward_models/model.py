"""The reward model itself: any `AutoModelForTokenClassification` with one label, its logit, and a sigmoid.

The head starts at zero (every probability 1/2) and has its bias frozen at zero, because the sequence-classification
classes of `transformers`, to which an outcome model exports, have no bias. Dropout is off: with it two scorings of one
solution during training would differ.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForTokenClassification, AutoTokenizer, PreTrainedModel

from reward_models.causes import explained
from reward_models.contract import StepContract
from reward_models.heads import HEAD_NAMES, head_of, load_mlp_model, quiet
from reward_models.hub import check_reachable
from reward_models.lora import never_pack
from reward_models.one_reader import placement, reads
from reward_models.peft_folder import is_adapter, tokenizer_folder
from reward_models.vocabulary import fit_vocabulary

_HASH = re.compile(r"[0-9a-f]{12,64}")


def layer_stack(model: nn.Module) -> Sequence[nn.Module]:
    """The layers of a transformer from bottom to top; empty where no list of modules has the configured length."""
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    return next((tuple(found) for found in lists if len(found) == count), ())


def is_causal(model: nn.Module) -> bool:
    """Whether all attention looks backwards only; padding on the right needs no attention mask then."""
    flags = [module.is_causal for module in model.modules() if hasattr(module, "is_causal")]
    return bool(flags) and all(flags)


def new_model(
    base: str | Path, contract: StepContract, dtype: torch.dtype = torch.float32, quantization: Any = None
) -> PreTrainedModel:
    """A reward model from a base (policy or plain language) model: zero head, no dropout, contract in its config.

    Raises:
        FileNotFoundError: `base` looks like a folder and is none.
    """
    _check_folder(base)
    with explained(base):
        config = AutoConfig.from_pretrained(base)
    config.num_labels = 1
    config.id2label, config.label2id = {0: "score"}, {"score": 0}
    config.use_cache = False  # nothing is generated; a cache would only hold memory
    _switch_off_dropout(config)
    contract.write_to(config)
    with quiet(), explained(base):
        model = AutoModelForTokenClassification.from_pretrained(
            base, config=config, dtype=dtype, quantization_config=quantization, **placement()
        )
    never_pack(model)
    head = head_of(model)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def freeze(model: nn.Module, embeddings: bool, norms: bool, layers: int = 0) -> None:
    """Stop gradients of the head's bias, and if asked of embeddings, normalisation, and the `layers` lowest layers."""
    stack = layer_stack(model)
    if layers > len(stack):
        raise ValueError(f"freeze_layers is {layers}, the model has {len(stack)} layers; choose at most that many")
    for layer in stack[:layers]:
        layer.requires_grad_(False)
    for name, parameter in head_of(model).named_parameters():
        if name.endswith("bias"):
            parameter.requires_grad_(False)
    freeze_parts(model, embeddings or layers > 0, norms)


def freeze_parts(model: nn.Module, embeddings: bool, norms: bool) -> None:
    """Stop gradients of input and output embeddings (the head of a reward model is not one), and of normalisation."""
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if embeddings and output is not None:
        output.requires_grad_(False)
    for module in model.modules():
        if (embeddings and isinstance(module, nn.Embedding)) or (norms and "norm" in type(module).__name__.lower()):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def load_tokenizer(path: str | Path, padding_side: str | None = "right") -> Any:
    """The fast tokenizer of a model folder, of a PEFT folder or its base, or of a hub id; None keeps its padding side.

    Without a pad token EOS pads. That is safe here: masks and scoring positions come from lengths, not from pad ids.

    Raises:
        FileNotFoundError: no such folder, or one without tokenizer files.
        ValueError: neither a pad nor an end-of-text token.
    """
    _check_folder(path)
    folder = Path(path)
    if is_adapter(folder):
        path = tokenizer_folder(folder)
    elif folder.is_dir() and not any(folder.glob("tokenizer*")):
        raise FileNotFoundError(
            f"{folder}: a model folder without tokenizer; copy tokenizer.json and tokenizer_config.json into it"
        )
    with explained(path):
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    if padding_side:
        tokenizer.padding_side = padding_side
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"{path}: the tokenizer has no end-of-text token and no pad token; name one as `eos_token` or "
                "`pad_token` in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    quantization: Any = None,
) -> tuple[PreTrainedModel, Any, StepContract]:
    """A trained reward model with tokenizer and contract, in evaluation mode, float32 unless told otherwise.

    With `quantization`, as `lora.four_bit` makes it, the trunk is in 4 bits, on the device that bitsandbytes chooses.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no step contract, no scoring head in the weights, weights that are not finite, or a head of two
            layers with `quantization`.
    """
    _check_folder(path)
    with explained(path):
        config = AutoConfig.from_pretrained(path)
    contract = StepContract.from_config(config, str(path))
    if contract.head == "mlp" and quantization:
        raise ValueError(f"{path}: a model with a head of two layers is not opened in 4 bits; set load_in_4bit: false")
    if contract.head == "mlp":
        model, missing = load_mlp_model(path, dtype or torch.float32)
    else:
        with quiet(), explained(path):
            model, report = AutoModelForTokenClassification.from_pretrained(
                path,
                dtype=dtype or torch.float32,
                quantization_config=quantization,
                output_loading_info=True,
                **placement(),
            )
        never_pack(model)
        missing = report["missing_keys"]
    lost = sorted(name for name in missing if name.split(".")[0] in HEAD_NAMES)
    if lost:
        raise ValueError(f"{path}: the weights hold no {lost[0]!r}, so the scoring head would be random; train again")
    if model.config.num_labels != 1 and contract.head == "linear":
        raise ValueError(
            f"{path}: {model.config.num_labels} labels, expected 1; convert it with reward_models.transfer"
        )
    bad = next((name for name, value in model.named_parameters() if not _finite(value)), None)
    if bad is not None:
        raise ValueError(f"{path}: weight {bad!r} holds NaN or infinite values; the training run diverged")
    tokenizer = load_tokenizer(path)
    fit_vocabulary(tokenizer, int(model.get_input_embeddings().num_embeddings), path)  # type: ignore[arg-type]
    model.eval().requires_grad_(False)
    if reads() and not quantization:
        model = nn.Module.to(model, pick_device(device))
    return model, tokenizer, contract


def checkpoint_name(path: str | Path) -> str:
    """What a checkpoint is called: its folder's name, or that of the folder around it where that is a hash."""
    folder = Path(path).resolve() if os.path.isdir(path) else Path(path)
    return folder.parent.name if _HASH.fullmatch(folder.name) else folder.name


def pick_device(device: str | torch.device | None) -> torch.device:
    """The given device, else a GPU if there is one, else the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _finite(value: torch.Tensor) -> bool:
    return value.is_meta or bool(torch.isfinite(value.detach().sum(dtype=torch.float32)))


def _switch_off_dropout(config: Any) -> None:
    config.classifier_dropout = 0.0
    for name, value in list(vars(config).items()):
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float):
            setattr(config, name, 0.0)


def _check_folder(path: str | Path) -> None:
    text = str(path)
    looks_local = text.startswith((".", "/", "~")) or text.count("/") > 1
    if looks_local and not os.path.isdir(os.path.expanduser(text)):
        raise FileNotFoundError(f"{text}: no such folder; give a checkpoint folder or a model id of the hub")
    check_reachable(text)
