"""The pairwise alternative: a Bradley-Terry reward model on TRL's RewardTrainer, -log sigmoid(r_chosen - r_rejected).

Texts are encoded as `Scorer` encodes them and the reward is read where it reads an outcome, so the result is an ORM to
everything else here. (The paper's released code has this loss with its sign flipped; the test trains and looks.)
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from transformers import AutoConfig, AutoModelForSequenceClassification, PrinterCallback
from trl import RewardTrainer

from reward_models.arguments import training_arguments
from reward_models.card import pairwise_card
from reward_models.contract import StepContract
from reward_models.encode import encode
from reward_models.lengths import losses
from reward_models.model import HEAD_NAMES, freeze_parts, load_tokenizer, new_model, quiet
from reward_models.pairs import Pair
from reward_models.peft_folder import merging_base
from reward_models.precision import base_dtype
from reward_models.readout import split_steps
from reward_models.settings import PairwiseSettings

__all__ = ["Pair", "bradley_terry_loss", "train_pairwise"]

log = logging.getLogger(__name__)


def bradley_terry_loss(chosen_B: torch.Tensor, rejected_B: torch.Tensor) -> torch.Tensor:
    """Mean of -log sigmoid(r_chosen - r_rejected) over pairs, a scalar (Bradley and Terry 1952)."""
    if chosen_B.shape != rejected_B.shape:
        raise ValueError(f"shapes differ: {tuple(chosen_B.shape)} and {tuple(rejected_B.shape)}")
    return -F.logsigmoid(chosen_B - rejected_B).mean()


@merging_base
def train_pairwise(
    base: str | Path,
    pairs: Sequence[Pair],
    out: str | Path,
    settings: PairwiseSettings | None = None,
    contract: StepContract | None = None,
) -> dict[str, Any]:
    """Train an outcome reward model from pairs and save it as `train` saves one: step contract, training.json, card.

    Returns the Trainer's last figures, the number of `pairs`, and how many of them were `too_long`. `Scorer` gives
    sigmoid(reward): it orders solutions of one problem, and is not a probability of being right. Plain
    `AutoModelForSequenceClassification` opens the result, too; it reads the reward at the last token, without EOS.

    Raises:
        ValueError: no pair, a pair of equal solutions, which teaches nothing, most pairs longer than `max_length`, or
            a contract of a model of steps.
    """
    equal = next((pair for pair in pairs if pair.chosen == pair.rejected), None)
    if not pairs or equal is not None:
        raise ValueError(f"{len(pairs)} pairs, equal solutions in {equal}; give pairs of different solutions")
    contract = contract or StepContract("orm")
    if contract.aggregation != "last" or contract.readout != "step_end":
        raise ValueError(
            f"the contract is of kind {contract.kind!r} with aggregation {contract.aggregation!r} and readout "
            f"{contract.readout!r}; pairs compare whole solutions, so give StepContract('orm')"
        )
    tokenizer = load_tokenizer(base)
    rows = {"chosen_ids": _ids(tokenizer, contract, [(pair.problem, pair.chosen) for pair in pairs])}
    rows["rejected_ids"] = _ids(tokenizer, contract, [(pair.problem, pair.rejected) for pair in pairs])
    settings = settings or PairwiseSettings()
    model, metrics, used = _train(base, tokenizer, rows, Path(out), settings)
    _save(model, base, contract, out)
    tokenizer.save_pretrained(out)
    result = {**metrics, "pairs": len(pairs), "too_long": len(pairs) - used}
    report = {**result, "kind": "pairwise", "base": str(base), "base_dtype": base_dtype(base)}
    report |= {"contract": contract.to_dict(), "settings": asdict(settings)}
    (Path(out) / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (Path(out) / "README.md").write_text(pairwise_card(report), encoding="utf-8")
    return result


def _ids(tokenizer: Any, contract: StepContract, texts: Sequence[tuple[str, str]]) -> list[list[int]]:
    """Token ids of (problem, solution) up to the one at which the outcome is read."""
    solutions = [split_steps(contract, solution) for _, solution in texts]
    rows = encode(tokenizer, contract, [problem for problem, _ in texts], solutions)
    return [row.ids[: row.positions[-1] + 1] for row in rows]


def _train(
    base: str | Path, tokenizer: Any, rows: Mapping[str, Any], out: Path, settings: PairwiseSettings
) -> tuple[Any, dict[str, float], int]:
    """A trained sequence classifier, the Trainer's figures, and how many pairs were short enough."""
    config = AutoConfig.from_pretrained(base)
    config.num_labels, config.pad_token_id, config.use_cache = 1, tokenizer.pad_token_id, False
    torch.manual_seed(settings.seed)
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)
    torch.nn.init.zeros_(model.score.weight)
    freeze_parts(model, settings.freeze_embeddings, settings.freeze_norms)
    arguments = training_arguments(settings, out / "trainer", settings.seed, max_length=settings.max_length)
    data = Dataset.from_dict(dict(rows))
    disable_progress_bars()
    with quiet():
        trainer = RewardTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        kept: Any = trainer.train_dataset
        used = len(kept)  # TRL leaves out pairs with a text beyond max_length
        limit = f"max_length {settings.max_length}"
        if found := losses(len(data), len(data) - used, 0, "pairs (too_long)", limit):
            log.warning("%s", found)
        result = trainer.train()
    enable_progress_bars()
    return model, result.metrics, used


def _save(model: Any, base: str | Path, contract: StepContract, out: str | Path) -> None:
    """The same weights as the token classifier that `Scorer` opens; its head has a bias, which stays zero."""
    saved = new_model(base, contract)
    saved.config.pad_token_id = model.config.pad_token_id
    found = saved.load_state_dict(model.state_dict(), strict=False)
    lost = [name for name in found.missing_keys if name.split(".")[0] not in HEAD_NAMES]
    if lost or found.unexpected_keys:
        raise ValueError(f"{type(saved).__name__} cannot hold the trained weights: {lost + found.unexpected_keys}")
    with quiet():
        saved.save_pretrained(out)
