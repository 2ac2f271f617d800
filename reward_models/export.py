"""Our models in the classes that other tools serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from reward_models.contract import PROBLEM_SLOT, StepContract
from reward_models.encode import encode
from reward_models.model import head_of, load_model, quiet

SCORE_TEMPLATE = "score_template.jinja"
TOLERANCE = 1e-4  # largest difference of a logit that an export may show on its probe texts
_PROBES = [("What is 2 + 3?", ["2 + 3 = 5", "# Answer\n\n5"]), ("x", ["y"]), ("1 + 1 = ?", ["2 ", "3."])]


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
