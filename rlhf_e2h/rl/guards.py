"""What stops a PPO run before it wastes hours: numbers that are not finite, a policy far from its reference."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from rlhf_e2h.parallel.sharding import uses_deepspeed
from rlhf_e2h.rl.experience import Experience
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rollout import Rollouts
from rlhf_e2h.rl.trainer import Trainer

log = logging.getLogger(__name__)


def stop_if_not_finite(
    trainer: Trainer,
    experience: Experience,
    rollouts: Rollouts,
    step: int,
    sums: Tensor,
    norms: Tensor,
    checkpoint_dir: Path | None,
) -> None:
    # gradient norms are the same on every process, so that all stop together
    if bool(torch.isfinite(norms).all()):
        return
    place = "nowhere, since there is no checkpoint folder"
    if checkpoint_dir and trainer.accelerator.is_main_process:
        folder = checkpoint_dir / f"bad_step_{step:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value for name, value in vars(experience).items() if isinstance(value, Tensor)}
        tensors |= vars(experience.batch)
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, folder / "batch.safetensors")
        (folder / "rollouts.json").write_text(json.dumps(asdict(rollouts), ensure_ascii=False))
        place = str(folder)
    raise FloatingPointError(
        f"PPO step {step}: gradient norms (policy, value) are {norms.tolist()}, losses {sums[:2].tolist()}; "
        f"{'DeepSpeed has made this update' if uses_deepspeed(trainer.accelerator) else 'the update was not made'}. "
        f"The batch is in {place}. Lower learning_rate, or look for broken rewards"
    )


def kl_guard(metrics: dict[str, float], settings: PPOSettings) -> str | None:
    """Alarms on KL and on the ratio, as metrics `alarm/*` and warnings; why training has to stop, or None."""
    kl = metrics["objective/kl"]
    if settings.kl_alarm is not None:
        metrics["alarm/kl"] = float(kl > settings.kl_alarm)
        if kl > settings.kl_alarm:
            log.warning("KL to the reference is %.2f nats a completion, above the alarm at %.2f", kl, settings.kl_alarm)
    if settings.ratio_alarm is not None:
        far = abs(metrics["val/ratio"] - 1)
        metrics["alarm/ratio"] = float(far > settings.ratio_alarm)
        if far > settings.ratio_alarm:
            log.warning("the mean ratio is %.3f, more than %.3f from 1", metrics["val/ratio"], settings.ratio_alarm)
    return f"KL {kl:.2f} is above kl_stop {settings.kl_stop}" if above_kl_stop(metrics, settings.kl_stop) else None


def above_kl_stop(metrics: dict[str, float], kl_stop: float | None) -> bool:
    """Whether this step is the last, since the policy has gone too far from its reference."""
    return kl_stop is not None and metrics["objective/kl"] > kl_stop
