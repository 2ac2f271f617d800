"""Our models in the classes that other tools serve."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from reward_models.contract import PROBLEM_SLOT, StepContract
from reward_models.encode import encode
from reward_models.model import head_of, load_model, quiet
from reward_models.special_tokens import leading_text

SCORE_TEMPLATE = "score_template.jinja"
TOLERANCE = 1e-4  # largest difference of a logit that an export may show on its probe texts
_PROBES = [("What is 2 + 3?", ["2 + 3 = 5", "# Answer\n\n5"]), ("x", ["y"]), ("1 + 1 = ?", ["2 ", "3."])]


def export_sequence_classification(source: str | Path, out: str | Path, dtype: torch.dtype | None = None) -> float:
    """Save an outcome model as `AutoModelForSequenceClassification` (vLLM, `sentence_transformers.CrossEncoder`).

    Such models read their last token that is not padding (texts end without EOS, so EOS may pad), so only a model whose
    score is its last step's can be exported. The export is loaded again and compared on probe texts; returns the
    largest difference of a logit, in which the rounding to `dtype` counts. Without `dtype` it is stored as the base
    was that the source was trained from, since full training stores float32 whatever the base. The tokenizer's chat
    template becomes the contract's template, by which CrossEncoder joins question and solution; beside it stands
    SCORE_TEMPLATE for `vllm serve OUT --chat-template`.

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
    stored = dtype or export_dtype(source)
    exported.to(stored)
    exported.config.dtype = stored
    with quiet():
        exported.save_pretrained(out)
    spelled = leading_text(tokenizer)
    bare = replace(contract, template=contract.template.removeprefix(spelled))
    tokenizer.chat_template = score_template(bare, spelled)
    tokenizer.save_pretrained(out)
    (Path(out) / SCORE_TEMPLATE).write_text(score_template(bare), encoding="utf-8")
    again = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32)
    rounding = _largest_difference(model, again, tokenizer, contract)
    difference = _largest_difference(nn.Module.to(model, stored).float(), again, tokenizer, contract)
    if difference > TOLERANCE:
        raise ValueError(
            f"the export differs by {difference:.2g} in a logit; this tokenizer ends texts with a token of its own"
        )
    return rounding


def export_dtype(source: str | Path) -> torch.dtype:
    """The precision in which the base of a trained model was stored, as `train` noted it; else that of the model."""
    file = Path(source) / "training.json"
    noted = json.loads(file.read_text(encoding="utf-8")).get("base_dtype") if file.is_file() else None
    found: torch.dtype = (getattr(torch, noted) if noted else AutoConfig.from_pretrained(source).dtype) or torch.float32
    return found


def score_template(contract: StepContract, spelled: str = "") -> str:
    """The contract's template in Jinja, over the two messages that readers of pairs make of problem and solution.

    `spelled` is what the tokenizer puts before a text: CrossEncoder leaves that to the template, vLLM's `/score` to the
    tokenizer.
    """
    before, after = contract.template.split(PROBLEM_SLOT, 1)
    before, after = (json.dumps(part, ensure_ascii=False) for part in (spelled + before, after))
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
