"""Hidden states at the last token of a solution or of its steps, from a policy or base model: what probes read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reward_models.model import load_tokenizer, pick_device
from rlhf_e2h.encoding import encode_prompts
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.training.models import load_policy

TOKENS = {"cpu": 1024, "cuda": 16384}  # tokens read at once, padding included


def chosen_layers(which: str, layers: int) -> tuple[int, ...]:
    """Layers of a model with L of them, counted from 1 (0 would be the embeddings).

    "middle" is (L + 1) // 2 (EleutherAI/w2s: 16 of 32); "hase" is ceil(L / 2) and the last, joined (Hase et al. 2024).
    """
    known = {"middle": ((layers + 1) // 2,), "last": (layers,), "hase": (-(-layers // 2), layers)}
    if which not in known:
        raise ConfigError(f"layers {which!r} is not known; choose one of {', '.join(known)}")
    return known[which]


def solution_texts(
    problems: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    template: str | None,
    text_format: TextFormat = SECTIONS,
) -> list[str]:
    """Prompt and solution of each sample row, in the marks of `template` ({problem}) or the samples' own."""
    template = template or text_format.template
    return [template.replace("{problem}", problems[row["problem_id"]]["problem"]) + row["text"] for row in rows]


def last_token_features(path: str | Path, texts: Sequence[str], which: str = "middle") -> NDArray[np.float32]:
    """Features (N, D) of the last token of each text; see `token_features`."""
    ids = encode_prompts(load_tokenizer(path), texts)
    return token_features(path, ids, [[len(row) - 1] for row in ids], which)


@torch.inference_mode()
def token_features(
    path: str | Path, ids: Sequence[Sequence[int]], positions: Sequence[Sequence[int]], which: str = "middle"
) -> NDArray[np.float32]:
    """Features (R, D) of R tokens: the chosen positions of each row of ids, in order.

    D is hidden size x number of chosen layers. Rows are read in batches of similar length, and only the chosen states
    are kept, so memory is R x D.

    Raises:
        ValueError: an empty row, or one longer than the model reads.
    """
    model, tokenizer = load_policy(path)
    device = pick_device(None)
    model = model.to(device).eval()  # type: ignore[arg-type]
    layers = chosen_layers(which, model.config.num_hidden_layers)
    lengths = np.array([len(row) for row in ids])
    limit = getattr(model.config, "max_position_embeddings", None) or lengths.max()
    if lengths.min() < 1 or lengths.max() > limit:
        raise ValueError(f"texts have {lengths.min()} to {lengths.max()} tokens; the model reads 1 to {limit}")
    first = np.concatenate([[0], np.cumsum([len(row) for row in positions])])
    features_RD = np.zeros((first[-1], model.config.hidden_size * len(layers)), dtype=np.float32)
    for batch in _batches(lengths, TOKENS.get(device.type, TOKENS["cuda"])):
        width = int(lengths[batch].max())
        ids_BT = np.full((len(batch), width), tokenizer.pad_token_id)
        for line, index in enumerate(batch):
            ids_BT[line, : lengths[index]] = ids[index]
        mask_BT = torch.arange(width) < torch.from_numpy(lengths[batch])[:, None]
        states = model.base_model(
            input_ids=torch.from_numpy(ids_BT).to(device),
            attention_mask=mask_BT.long().to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        for line, index in enumerate(batch):
            found = torch.cat([states[layer][line, list(positions[index])].float() for layer in layers], dim=1)
            features_RD[first[index] : first[index + 1]] = found.cpu().numpy()
    return features_RD


def _batches(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Rows of similar length, the longest first, at most `budget` tokens of padded text at once."""
    order, start = np.argsort(lengths, kind="stable")[::-1], 0
    while start < len(order):
        batch = order[start : start + max(1, budget // lengths[order[start]])]
        yield batch
        start += len(batch)
