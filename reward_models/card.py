"""The model card: what the checkpoint was trained on, how well it did, how to call it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reward_models.kinds import kind_of

_CARD = """---
library_name: transformers
tags: [reward-model, {kind}]
---
# {title}

It says {about}. Trained with `reward_models` from `{base}` on {used} solutions ({trained_tokens} labelled tokens;
left out: {left_out}).
Loss: token-weighted binary cross-entropy on {loss_on}, {epochs} epochs, learning rate {learning_rate}.

Levels of its problems: {levels}. Sources: {sources}.

A step's score is `sigmoid(logit)` of the one label at the token that ends the step; the score of a solution is the
`{aggregation}` of its step scores. Prompt and separator stand in `config.json` under `step_contract`.

```python
from reward_models import Scorer
scorer = Scorer.from_pretrained("PATH")
scorer.score("What is 2 + 3?", [["2 + 3 = 5", "# Answer\\n\\n5"]])
```

The same numbers with `transformers` alone (its token-classification pipeline shows a softmax over one label, always 1):

```python
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer
model = AutoModelForTokenClassification.from_pretrained("PATH", dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained("PATH")
contract = model.config.step_contract
text, ends = contract["template"].replace("{{problem}}", "What is 2 + 3?"), []
for step in ["2 + 3 = 5", "# Answer\\n\\n5"]:
    ends.append(len(text + step))
    text += step + contract["separator"]
{closing}encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
starts, stops = encoded.pop("offset_mapping")[0].T
logits = model(**encoded).logits[0, :, 0]
scores = [logits[((starts < end) & (starts < stops)).nonzero().max()].sigmoid().item() for end in ends]
```

| validation | value |
|---|---|
{metrics}
"""


def model_card(report: Mapping[str, Any]) -> str:
    """Markdown of the card from the report that `train` writes."""
    figures = report.get("validation") or {}
    plain: dict[str, Any] = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    plain["first_error_f1"] = (figures.get("first_error") or {}).get("f1")
    lines = [f"| {name} | {value:.4g} |" for name, value in plain.items() if value is not None]
    names = ("without_label", "thinned", "too_long")
    left_out = ", ".join(f"{report[name]} {name.replace('_', ' ')}" for name in names)
    kind, settings, contract = kind_of(report["kind"]), report["settings"], report["contract"]
    return _CARD.format(
        kind=report["kind"],
        title=kind.title,
        about=kind.about,
        base=_name(report["base"]),
        used=report["used"],
        trained_tokens=report["trained_tokens"],
        left_out=left_out,
        loss_on=settings["loss_on"].replace("_", " "),
        epochs=settings["num_train_epochs"],
        learning_rate=settings["learning_rate"],
        levels=_counts(report["levels"]),
        sources=_counts(report["sources"]),
        aggregation=contract["aggregation"],
        # a model of whole texts has nothing after the last step
        closing="" if contract["joining"] == "steps" else "text = text[: ends[-1]]\n",
        metrics="\n".join(lines) or "| none | |",
    )


_PAIRWISE = """---
library_name: transformers
tags: [reward-model, pairwise]
---
# Pairwise reward model

Trained with `reward_models` from `{base}` on {used} pairs of a chosen and a rejected solution (left out: {too_long} too
long). Loss: Bradley-Terry, `-log sigmoid(r_chosen - r_rejected)`, {epochs} epochs, learning rate {learning_rate}.

The reward is the one logit at the last token of the solution. `Scorer` gives its sigmoid: scores order solutions of one
problem, and are not probabilities of being right. The prompt stands in `config.json` under `step_contract`.

```python
from reward_models import Scorer
scorer = Scorer.from_pretrained("PATH")
scorer.score("What is 2 + 3?", [["2 + 3 = 5", "# Answer\\n\\n5"]])
```
"""


def pairwise_card(report: Mapping[str, Any]) -> str:
    """Markdown of the card from the report that `train_pairwise` writes."""
    settings = report["settings"]
    return _PAIRWISE.format(
        base=_name(report["base"]),
        used=report["pairs"] - report["too_long"],
        too_long=report["too_long"],
        epochs=settings["num_train_epochs"],
        learning_rate=settings["learning_rate"],
    )


def _name(base: str) -> str:
    """A name, not a path of somebody's machine."""
    return base.rstrip("/").rpartition("/")[2]


def _counts(found: Mapping[str, int]) -> str:
    """`1: 20, 2: 31`, in the order of names."""
    return ", ".join(f"{name}: {found[name]}" for name in sorted(found)) or "not stated"
