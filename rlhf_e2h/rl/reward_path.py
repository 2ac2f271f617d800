"""The reward function that PPO calls: sources of reward, whose models may be adapters of the policy's own base."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from accelerate import Accelerator

from rlhf_e2h.parallel.sharding import whole_weights
from rlhf_e2h.rl.rewards import Completion, Reward
from rlhf_e2h.rl.sources import RewardSources


class RewardPath:
    """What `train_ppo` asks for rewards: the sources, with the weights they read in full. Keeps the last answers."""

    def __init__(self, sources: RewardSources, shared: Any, accelerator: Accelerator) -> None:
        """`shared` is the policy where reward models are adapters of its base, else None."""
        self.sources, self.shared, self.accelerator = sources, shared, accelerator
        self.last: tuple[Sequence[Completion], list[Reward]] = ((), [])

    def __call__(self, completions: Sequence[Completion]) -> list[Reward]:
        with self.whole_base():
            self.last = (completions, self.sources(completions))
        return self.last[1]

    def whole_base(self) -> contextlib.AbstractContextManager[None]:
        """For a reward model on the shared base, which reads it outside what DeepSpeed looks after."""
        return contextlib.nullcontext() if self.shared is None else whole_weights(self.shared, self.accelerator)
