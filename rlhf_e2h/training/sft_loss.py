"""The loss of fine-tuning on a CPU, for TRL's trainer.

TRL's own is made for GPUs: elsewhere it takes the output layer over prompts and padding too, and its gradient in
float32. With a vocabulary of 152,000 on a CPU that is most of an update. Here the layer is applied where there is a
label, in chunks, in the precision of training. Padding is on the right and attention is causal, so it needs no mask.
"""

from __future__ import annotations

from typing import Any

import torch

from rlhf_e2h.rl.chunked_logits import Places, outputs_at


def sft_trainer() -> Any:
    """TRL's SFTTrainer, with the loss of this module where that is faster."""
    from trl import SFTTrainer

    if torch.accelerator.is_available():
        return SFTTrainer

    class LabelLoss(SFTTrainer):
        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if return_outputs or not _padded_on_the_right(inputs):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            labels_BT = inputs["labels"][:, 1:]
            row_N, column_N = (labels_BT != -100).nonzero(as_tuple=True)
            places = Places(row_N, column_N, labels_BT[row_N, column_N])
            pair_N2 = outputs_at(model, {"input_ids": inputs["input_ids"]}, places, entropy=False)
            count = len(row_N) if num_items_in_batch is None else num_items_in_batch
            loss = -pair_N2[:, 0].sum() / torch.as_tensor(count).clamp(min=1)
            if self.args.average_tokens_across_devices and num_items_in_batch is not None:
                loss = loss * self.accelerator.num_processes  # DDP averages gradients, `count` is of all processes
            return loss

    return LabelLoss


def _padded_on_the_right(inputs: Any) -> bool:
    mask = inputs.get("attention_mask")
    plain = set(inputs) <= {"input_ids", "labels", "attention_mask", "completion_mask"}
    return plain and mask is not None and not bool((mask[:, 1:] > mask[:, :-1]).any())
