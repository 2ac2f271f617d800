"""The rollouts of one PPO step: each process samples for its share of the prompts, and all get the whole batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rlhf_e2h.parallel.gathering import gather_json
from rlhf_e2h.parallel.sharding import whole_weights
from rlhf_e2h.rl.engine_settings import Sampling
from rlhf_e2h.rl.engines import Engine, HFEngine
from rlhf_e2h.rl.ppo_settings import derived_seed
from rlhf_e2h.rl.rollout import Rollouts
from rlhf_e2h.rl.trainer import Trainer


def sample_step(trainer: Trainer, engine: Engine | None, rows: Sequence[Mapping[str, Any]], step: int) -> Rollouts:
    """Sample for this process's share of the prompts; returns the rollouts of all."""
    settings, accelerator = trainer.settings, trainer.accelerator
    share = len(rows) // accelerator.num_processes
    first = accelerator.process_index * share
    policy = trainer.bare.policy
    engine = engine or HFEngine(policy, trainer.tokenizer)
    sampling = Sampling(
        n=settings.samples_per_prompt,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        seed=derived_seed(settings.seed, "sampling", step),
        batch_size=settings.generation_batch,
        first_row=first * settings.samples_per_prompt,
    )
    with accelerator.autocast(), whole_weights(policy, accelerator):
        if accelerator.is_main_process or not engine.one_for_all:
            engine.update(policy)
        if engine.one_for_all:
            accelerator.wait_for_everyone()
        own = engine.sample([row["prompt"] for row in rows[first : first + share]], sampling)
    parts = gather_json(accelerator, asdict(own))
    return Rollouts(**{name: [item for part in parts for item in part[name]] for name in parts[0]})
