"""Reward models of other people to ours, and ours to the classes other tools serve.

Every two-way read-out is a difference of two rows, softmax([a, b])[1] = sigmoid(b - a), so a foreign head becomes one
row exactly, and the step contract takes over where it is read:

| style | source model | head | read at |
|---|---|---|---|
| e2h | easy-to-hard release: CausalLM with a two-row `lm_head` | mean of the rows | first newline of the separator |
| math-shepherd | CausalLM that says + or - behind ` ки` | row of + minus row of - | the tag |
| qwen-prm | Qwen2.5-Math-PRM: Linear-ReLU-Linear, 2 labels | last layer's row 1 minus row 0 | `<extra_0>` |
| trl-prm | TRL PRMTrainer: token classification, 2 labels | row 1 minus row 0 | separator ids behind each step |

Weights are read from safetensors only, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
)

from reward_models.contract import PROBLEM_SLOT, StepContract
from reward_models.encode import encode
from reward_models.model import head_of, load_model, quiet

State = dict[str, torch.Tensor]

QWEN_TEMPLATE = (
    "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
    "<|im_start|>user\n{problem}<|im_end|>\n<|im_start|>assistant\n"
)
SCORE_TEMPLATE = "score_template.jinja"
TOLERANCE = 1e-4  # largest difference of a logit that an export may show on its probe texts
_PROBES = [("What is 2 + 3?", ["2 + 3 = 5", "# Answer\n\n5"]), ("x", ["y"]), ("1 + 1 = ?", ["2 ", "3."])]


def import_model(source: str | Path, out: str | Path, style: str, **options: Any) -> StepContract:
    """Convert a foreign checkpoint folder into one of ours and return its contract.

    `style` is one of STYLES. Options: `good` and `bad`, the token texts of math-shepherd (+ and -); any field of the
    contract (`template`, `separator`, `marker`, `aggregation`), to overrule the style's.

    Raises:
        FileNotFoundError: no folder, or no safetensors file in it.
        ValueError: unknown style, or weights that do not have the style's head.
    """
    if style not in STYLES:
        raise ValueError(f"style {style!r} is not known; choose one of {', '.join(STYLES)}")
    tokenizer = AutoTokenizer.from_pretrained(source)
    state = read_weights(source)
    words = {str(name): str(options.pop(name)) for name in ("good", "bad") if name in options}
    head, defaults = STYLES[style](state, tokenizer, words)
    contract = StepContract(**{"kind": "prm", **defaults, **options})
    config = AutoConfig.from_pretrained(source)
    config.num_labels = 1
    config.id2label, config.label2id = {0: "score"}, {"score": 0}
    config.use_cache, config.pad_token_id = False, config.pad_token_id or tokenizer.pad_token_id
    contract.write_to(config)
    model = _assemble(config, contract, {**state, **head})
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return contract


def _e2h(state: State, tokenizer: Any, words: dict[str, str]) -> tuple[State, dict[str, Any]]:
    rows = _take(state, "lm_head.weight", 2)
    return {"score.weight": rows.float().mean(0, keepdim=True)}, {"readout": "separator", "joining": "text"}


def _math_shepherd(state: State, tokenizer: Any, words: dict[str, str]) -> tuple[State, dict[str, Any]]:
    weight = state.pop("lm_head.weight", None)
    if weight is None:  # tied embeddings are stored once
        weight = next((value for name, value in state.items() if name.endswith("embed_tokens.weight")), None)
    if weight is None:
        raise ValueError("the weights hold neither 'lm_head.weight' nor input embeddings; this is no language model")
    ids = [_token(tokenizer, words.get("good", "+")), _token(tokenizer, words.get("bad", "-"))]
    row = weight[ids[0]].float() - weight[ids[1]].float()
    contract = {"template": "{problem} ", "separator": "\n", "readout": "marker", "marker": " ки"}
    return {"score.weight": row[None]}, contract


def _qwen_prm(state: State, tokenizer: Any, words: dict[str, str]) -> tuple[State, dict[str, Any]]:
    weight, bias = _take(state, "score.2.weight", 2).float(), _take(state, "score.2.bias", 2).float()
    head = {"score.2.weight": weight[1:] - weight[:1], "score.2.bias": bias[1:] - bias[:1]}
    contract = {"template": QWEN_TEMPLATE, "separator": "", "readout": "marker", "marker": "<extra_0>", "head": "mlp"}
    return head, contract


def _trl_prm(state: State, tokenizer: Any, words: dict[str, str]) -> tuple[State, dict[str, Any]]:
    name = "score" if "score.weight" in state else "classifier"
    weight = _take(state, f"{name}.weight", 2).float()
    head = {f"{name}.weight": weight[1:] - weight[:1]}
    if f"{name}.bias" in state:
        bias = state.pop(f"{name}.bias").float()
        head[f"{name}.bias"] = bias[1:] - bias[:1]
    contract = {"template": "{problem}", "separator": "", "readout": "marker", "marker": "\n", "joining": "pieces"}
    return head, contract


STYLES: dict[str, Callable[[State, Any, dict[str, str]], tuple[State, dict[str, Any]]]] = {
    "e2h": _e2h,
    "math-shepherd": _math_shepherd,
    "qwen-prm": _qwen_prm,
    "trl-prm": _trl_prm,
}


def export_sequence_classification(source: str | Path, out: str | Path) -> float:
    """Save an outcome model as `AutoModelForSequenceClassification` (what vLLM and TEI-like servers load).

    Such models read their last token that is not padding, so only a model whose score is its last step's can be
    exported. The export is loaded again and compared on probe texts; returns the largest difference of a logit.
    Beside the model stands SCORE_TEMPLATE, the contract's template for `vllm serve OUT --chat-template`.

    Raises:
        ValueError: the score is not that of the last token, or the architecture cannot carry the head.
    """
    model, tokenizer, contract = load_model(source, device="cpu")
    if contract.aggregation != "last" or contract.readout != "step_end":
        raise ValueError(
            f"aggregation {contract.aggregation!r} with readout {contract.readout!r} is not the score of one last "
            "token; only models with aggregation 'last' (ORMs) can be sequence classifiers"
        )
    bias = getattr(head_of(model), "bias", None)
    if bias is not None and torch.count_nonzero(bias):
        raise ValueError("the head has a bias, which sequence classifiers lack; train with reward_models (bias frozen)")
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError("pad and EOS token are the same, so a reader could not find the last token; set a pad token")
    model.config.pad_token_id = tokenizer.pad_token_id
    config = AutoConfig.from_pretrained(source)
    config.pad_token_id, config.num_labels = tokenizer.pad_token_id, 1
    config.use_sep_token = False  # vLLM: problem and solution are one text, not a pair with a separator between
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("score.bias")}
    with quiet():
        exported = AutoModelForSequenceClassification.from_config(config).float().eval()
    try:
        exported.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{type(exported).__name__} cannot hold these weights: {error}") from None
    with quiet():
        exported.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (Path(out) / SCORE_TEMPLATE).write_text(score_template(contract), encoding="utf-8")
    difference = _largest_difference(
        model, AutoModelForSequenceClassification.from_pretrained(out), tokenizer, contract
    )
    if difference > TOLERANCE:
        raise ValueError(
            f"the export differs by {difference:.2g} in a logit; this tokenizer ends texts with a token of its own"
        )
    return difference


def score_template(contract: StepContract) -> str:
    """The contract's template in Jinja, over the two messages that vLLM's `/score` makes of problem and solution."""
    before, after = (json.dumps(part, ensure_ascii=False) for part in contract.template.split(PROBLEM_SLOT, 1))
    return f"{{{{ {before} + messages[0]['content'] + {after} + messages[1]['content'] }}}}"


@torch.inference_mode()
def _largest_difference(model: Any, exported: Any, tokenizer: Any, contract: StepContract) -> float:
    rows = encode(tokenizer, contract, [problem for problem, _ in _PROBES], [steps for _, steps in _PROBES])
    differences = []
    for row in rows:
        ids = torch.tensor([row.ids])
        ours = model(input_ids=ids).logits[0, row.positions[-1], 0]
        differences.append((ours - exported.eval()(input_ids=ids).logits[0, 0]).abs().item())
    return max(differences)


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
    model, missing = _build(config, StepContract.from_config(config, str(path)), read_weights(path))
    return nn.Module.to(model, dtype), missing


def _assemble(config: Any, contract: StepContract, state: State) -> PreTrainedModel:
    model, missing = _build(config, contract, state)
    head_bias = {f"{name}.bias" for name in ("score", "classifier")}
    lost = [name for name in missing if name not in head_bias]
    if lost:
        raise ValueError(f"the weights hold no {lost[0]!r} ({len(lost)} missing); is this the right style?")
    return model


def _build(config: Any, contract: StepContract, state: State) -> tuple[PreTrainedModel, list[str]]:
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
