"""The pairwise alternative: a Bradley-Terry reward model on TRL's RewardTrainer, -log sigmoid(r_chosen - r_rejected).

(The paper's released code has this loss with its sign flipped; the test trains a model and looks.)
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from transformers import AutoConfig, AutoModelForSequenceClassification, PrinterCallback
from trl import RewardConfig, RewardTrainer

from reward_models.contract import StepContract
from reward_models.lengths import losses
from reward_models.model import load_tokenizer, quiet
from reward_models.pairs import Pair
from reward_models.peft_folder import merging_base

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
    *,
    contract: StepContract | None = None,
    learning_rate: float = 1e-5,
    epochs: float = 1.0,
    batch_size: int = 32,
    max_length: int = 1024,
    seed: int = 0,
) -> dict[str, Any]:
    """Train and save a sequence classifier whose one logit is the reward; returns the Trainer's last figures,
    the number of `pairs`, and how many of them were `too_long`.

    Problem and solution are joined by the contract's template (default: the paper's). The result is a plain
    `AutoModelForSequenceClassification` with the contract in its config. TRL ends every training text with EOS and the
    reward is read there, so put EOS behind texts that you score.

    Raises:
        ValueError: no pair, a pair of equal solutions, which teaches nothing, or most pairs longer than `max_length`.
    """
    equal = next((pair for pair in pairs if pair.chosen == pair.rejected), None)
    if not pairs or equal is not None:
        raise ValueError(f"{len(pairs)} pairs, equal solutions in {equal}; give pairs of different solutions")
    contract = contract or StepContract("orm")
    tokenizer = load_tokenizer(base)
    config = AutoConfig.from_pretrained(base)
    config.num_labels, config.pad_token_id, config.use_cache = 1, tokenizer.pad_token_id, False
    contract.write_to(config)
    torch.manual_seed(seed)
    with quiet():
        model = AutoModelForSequenceClassification.from_pretrained(base, config=config, dtype=torch.float32)
    torch.nn.init.zeros_(model.score.weight)
    rows = [
        {"prompt": contract.prompt(pair.problem), "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs
    ]
    arguments = RewardConfig(
        output_dir=str(Path(out) / "trainer"),
        learning_rate=learning_rate,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        max_length=max_length,
        seed=seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_steps=10,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=not torch.cuda.is_available(),
    )
    disable_progress_bars()
    with quiet():
        trainer = RewardTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        trainer.remove_callback(PrinterCallback)
        kept: Any = trainer.train_dataset
        too_long = len(pairs) - len(kept)  # TRL leaves out pairs with a text beyond max_length
        if found := losses(len(pairs), too_long, 0, "pairs (too_long)", f"max_length {max_length}"):
            log.warning("%s", found)
        result = trainer.train()
        model.save_pretrained(out)
    enable_progress_bars()
    tokenizer.save_pretrained(out)
    return {**result.metrics, "pairs": len(pairs), "too_long": too_long}
