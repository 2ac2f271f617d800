"""Reward models of other people to ours.

Every two-way output is a difference of two rows, softmax([a, b])[1] = sigmoid(b - a), so a foreign head becomes one
row exactly, and the step contract takes over where it is read:

| style | source model | head | read at |
|---|---|---|---|
| e2h | easy-to-hard release: CausalLM with a two-row `lm_head` | mean of the rows | first newline of the separator |
| math-shepherd | CausalLM that says + or - after ` ки` | row of + minus row of - | the tag |
| qwen-prm | Qwen2.5-Math-PRM: Linear-ReLU-Linear, 2 labels | last layer's row 1 minus row 0 | `<extra_0>` |
| trl-prm | TRL PRMTrainer: token classification, 2 labels | row 1 minus row 0 | separator ids after each step |

A checkpoint that is not of its style is refused: by its tensors, by the tokens that are read, and a language model also
by what it says at the tag. Weights are read from safetensors only, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from reward_models.causes import explained
from reward_models.contract import StepContract
from reward_models.encode import encode
from reward_models.export import SCORE_TEMPLATE, export_sequence_classification, score_template
from reward_models.heads import State, build, head_of, read_weights

__all__ = [  # exports have been called from here before
    "SCORE_TEMPLATE", "STYLES", "export_sequence_classification", "import_model", "read_weights",
    "score_template",
]  # fmt: skip


QWEN_TEMPLATE = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
)
SAYS_MARK = 0.5  # what a Math-Shepherd model gives + and - together at a tag, at least; a trained one nearly all
_SOLVED = ("What is 2 + 3 * 4?", ["Step 1: 3 * 4 = 12.", "Step 2: 2 + 12 = 14. The answer is: 14"])


def import_model(
    source: str | Path, out: str | Path, style: str, dtype: torch.dtype | None = None, **options: Any
) -> StepContract:
    """Convert a foreign checkpoint folder into one of ours, stored in `dtype` or as it was, and return its contract.

    `style` is one of STYLES. Options: `good` and `bad`, the token texts of math-shepherd (+ and -); any field of the
    contract (`template`, `separator`, `marker`, `aggregation`), to overrule the style's.

    Raises:
        FileNotFoundError: no folder, or no safetensors file in it.
        ValueError: unknown style, or weights that do not have the style's head.
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r} is not known; choose one of {', '.join(STYLES)}")
    if not Path(source).is_dir():
        raise FileNotFoundError(
            f"{source}: no such folder; checkpoints of others are read from folders: `hf download {source} --local-dir "
            "FOLDER`, then give FOLDER"
        )
    with explained(source):
        tokenizer, config = AutoTokenizer.from_pretrained(source), AutoConfig.from_pretrained(source)
    state = read_weights(source)
    words = {str(name): str(options.pop(name)) for name in ("good", "bad") if name in options}
    found = STYLES[style](state, tokenizer, words)
    contract = StepContract(**{"kind": "prm", **found.contract, **options})
    _check_architecture(config, found, style)
    if found.whole_marker:
        _check_marker(tokenizer, contract.marker, style)
    stored = dtype or max((value.dtype for value in state.values()), key=[v.dtype for v in state.values()].count)
    config.num_labels = 1
    config.id2label, config.label2id = {0: "score"}, {"score": 0}
    config.use_cache, config.pad_token_id = False, config.pad_token_id or tokenizer.pad_token_id
    contract.write_to(config)
    model = _assemble(config, contract, {**state, **found.head})
    if found.says is not None:
        _check_says(model, tokenizer, contract, found.says, style)
    nn.Module.to(model, stored)
    head_of(model).float()  # a difference of two rows has more digits than they
    model.config.dtype = stored
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return contract


@dataclass(frozen=True)
class Found:
    """What a style finds in a checkpoint."""

    head: State  # weights of the scoring layer
    contract: dict[str, Any]  # fields of the step contract
    class_ending: str  # of the class that the checkpoint names in `architectures`; empty: any
    whole_marker: bool = False  # the marker has to be a token of its own
    says: tuple[torch.Tensor, list[int]] | None = None  # output embeddings (V, H), and the ids a language model says


def _check_architecture(config: Any, found: Found, style: str) -> None:
    named = (getattr(config, "architectures", None) or [""])[0]
    if named and not named.endswith(found.class_ending):
        raise ValueError(f"the checkpoint is a {named}; a {style} model is a ...{found.class_ending}")


def _check_marker(tokenizer: Any, marker: str, style: str) -> None:
    ids = tokenizer.encode(marker, add_special_tokens=False)
    if not ids or tokenizer.decode(ids[-1:]).strip() != marker.strip():
        raise ValueError(
            f"the tokenizer has no token for {marker!r}, at which a {style} model is read (it makes "
            f"{tokenizer.convert_ids_to_tokens(ids)} of it); this is another kind of model"
        )


@torch.inference_mode()
def _check_says(
    model: PreTrainedModel, tokenizer: Any, contract: StepContract, says: tuple[torch.Tensor, list[int]], style: str
) -> None:
    """The language model says one of two tokens after each marker, as one trained for it does."""
    rows, ids = says
    (row,) = encode(tokenizer, contract, [_SOLVED[0]], [_SOLVED[1]])
    states_SH = model.base_model(input_ids=torch.tensor([row.ids])).last_hidden_state[0, row.positions]
    share = (states_SH @ rows.float().T).softmax(-1)[:, ids].sum(-1).mean().item()
    if share < SAYS_MARK:
        words = " or ".join(repr(tokenizer.decode([index])) for index in ids)
        raise ValueError(
            f"at {contract.marker!r} this language model says {words} with probability {share:.2g}; a {style} model "
            f"does with {SAYS_MARK} at least, so this is another kind of model. Name other words with good= and bad="
        )


def _e2h(state: State, tokenizer: Any, words: dict[str, str]) -> Found:
    rows = _take(state, "lm_head.weight", 2)
    contract = {"readout": "separator", "joining": "text"}
    return Found({"score.weight": rows.float().mean(0, keepdim=True)}, contract, "ForCausalLM")


def _math_shepherd(state: State, tokenizer: Any, words: dict[str, str]) -> Found:
    weight = state.pop("lm_head.weight", None)
    if weight is None:  # tied embeddings are stored once
        weight = next((value for name, value in state.items() if name.endswith("embed_tokens.weight")), None)
    if weight is None:
        raise ValueError("the weights hold neither 'lm_head.weight' nor input embeddings; this is not a language model")
    ids = [_token(tokenizer, words.get("good", "+")), _token(tokenizer, words.get("bad", "-"))]
    row = weight[ids[0]].float() - weight[ids[1]].float()
    contract = {"template": "{problem} ", "separator": "\n", "readout": "marker", "marker": " ки"}
    return Found({"score.weight": row[None]}, contract, "ForCausalLM", whole_marker=True, says=(weight, ids))


def _qwen_prm(state: State, tokenizer: Any, words: dict[str, str]) -> Found:
    weight, bias = _take(state, "score.2.weight", 2).float(), _take(state, "score.2.bias", 2).float()
    head = {"score.2.weight": weight[1:] - weight[:1], "score.2.bias": bias[1:] - bias[:1]}
    contract = {"template": QWEN_TEMPLATE, "separator": "", "readout": "marker", "marker": "<extra_0>", "head": "mlp"}
    return Found(head, contract, "", whole_marker=True)


def _trl_prm(state: State, tokenizer: Any, words: dict[str, str]) -> Found:
    name = "score" if "score.weight" in state else "classifier"
    weight = _take(state, f"{name}.weight", 2).float()
    head = {f"{name}.weight": weight[1:] - weight[:1]}
    if f"{name}.bias" in state:
        bias = state.pop(f"{name}.bias").float()
        head[f"{name}.bias"] = bias[1:] - bias[:1]
    contract = {"template": "{problem}", "separator": "", "readout": "marker", "marker": "\n", "joining": "pieces"}
    return Found(head, contract, "ForTokenClassification")


STYLES: dict[str, Callable[[State, Any, dict[str, str]], Found]] = {
    "e2h": _e2h,
    "math-shepherd": _math_shepherd,
    "qwen-prm": _qwen_prm,
    "trl-prm": _trl_prm,
}


def _assemble(config: Any, contract: StepContract, state: State) -> PreTrainedModel:
    model, missing = build(config, contract, state)
    head_bias = {f"{name}.bias" for name in ("score", "classifier")}
    lost = [name for name in missing if name not in head_bias]
    if lost:
        raise ValueError(f"the weights hold no {lost[0]!r} ({len(lost)} missing); is this the right style?")
    return model


def _take(state: State, name: str, rows: int) -> torch.Tensor:
    if name not in state or state[name].shape[0] != rows:
        found = tuple(state[name].shape) if name in state else "nothing"
        raise ValueError(f"expected {name!r} with {rows} rows, found {found}; is this the right style?")
    return state.pop(name)


def _token(tokenizer: Any, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if not ids or ids[-1] == tokenizer.unk_token_id:
        raise ValueError(f"the tokenizer has no token for {text!r}; name the tokens with good= and bad=")
    return ids[-1]
