"""The sampler of skills: which examples make up each batch, for fine-tuning, reward models and RL prompts alike.

Batch t is a function of the seed and of the weights decided before t, and of nothing else: how many examples each skill
gives is drawn from the weights, and a skill gives its examples in a random order, each once before any twice. So a run
resumes exactly from its seed and the list of decisions (`state_dict`), whatever a data loader had fetched in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Schedule = Callable[[int], ArrayLike]


class SkillSampler:
    """Batches of example indices by skill.

    Args:
        skills_N: the skill of each example. order: skills in the order of their weights, easiest first.
        schedule: weights (K,) of batch t; a decision of `decide` replaces it from its batch on.
        batch: examples a batch. seed: of everything random.

    Raises:
        ValueError: a skill of `order` without examples, or an example of no skill.
    """

    def __init__(
        self, skills_N: Sequence[str], order: Sequence[str], schedule: Schedule, batch: int, seed: int
    ) -> None:
        self.order, self.schedule, self.batch, self.seed = list(order), schedule, batch, seed
        self.members = {skill: [i for i, one in enumerate(skills_N) if one == skill] for skill in self.order}
        empty = [skill for skill, members in self.members.items() if not members]
        strange = [one for one in skills_N if one not in self.members]
        if empty:
            raise ValueError(f"skill {empty[0]!r} has no examples; leave it out of the mixture")
        if strange:
            raise ValueError(f"an example has skill {strange[0]!r}, which is none of {', '.join(self.order)}")
        if batch < 1:
            raise ValueError(f"batch is {batch}; at least 1")
        self.decisions: list[tuple[int, list[float]]] = []  # (first batch, weights), in order
        self._next, self._taken = 0, np.zeros(len(self.order), dtype=np.int64)
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}

    @property
    def counts(self) -> list[int]:
        """Examples of each skill."""
        return [len(self.members[skill]) for skill in self.order]

    def weights(self, t: int) -> NDArray[np.float64]:
        """Shares of the skills in batch t."""
        decided = [weights for first, weights in self.decisions if first <= t]
        weights = np.asarray(decided[-1] if decided else self.schedule(t), dtype=np.float64)
        if len(weights) != len(self.order) or not np.isfinite(weights).all() or weights.min() < 0 or not weights.sum():
            raise ValueError(f"weights {weights.tolist()} of batch {t} are no shares of {', '.join(self.order)}")
        return weights / weights.sum()

    def decide(self, first_batch: int, weights: ArrayLike) -> None:
        """Weights from a batch on, in the place of the schedule; replaces decisions for that batch and later ones."""
        kept = [one for one in self.decisions if one[0] < first_batch]
        self.decisions = [*kept, (first_batch, np.asarray(weights, dtype=np.float64).tolist())]
        if first_batch < self._next:
            self._next = 0  # batches were handed out under other weights: count again

    def indices(self, t: int) -> list[int]:
        """The examples of batch t, in random order."""
        if t < self._next:
            self._next = 0
        if self._next == 0:
            self._taken[:] = 0
        while self._next < t:
            self._taken += self._quota(self._next)
            self._next += 1
        chosen: list[int] = []
        quota = self._quota(t)
        for number, skill in enumerate(self.order):
            chosen += [self._example(number, skill, int(self._taken[number]) + i) for i in range(quota[number])]
        self._taken += quota
        self._next = t + 1
        return [chosen[i] for i in np.random.default_rng([self.seed, 1, t]).permutation(len(chosen))]

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"seed": self.seed, "order": self.order, "decisions": [list(one) for one in self.decisions]}

    def load_state_dict(self, state: dict[str, Any], batches: int | None = None) -> None:
        """Resume as the run that wrote `state`; with `batches`, as it was when it had done so many.

        Raises:
            ValueError: the state is of another seed or other skills.
        """
        if state["seed"] != self.seed or list(state["order"]) != self.order:
            raise ValueError(
                f"the state is of seed {state['seed']} and skills {state['order']}, this run has seed {self.seed} and "
                f"{self.order}; start afresh"
            )
        limit = float("inf") if batches is None else batches
        self.decisions = [(int(first), list(weights)) for first, weights in state["decisions"] if first <= limit]
        self._next = 0

    def _quota(self, t: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, t]).multinomial(self.batch, self.weights(t))

    def _example(self, number: int, skill: str, position: int) -> int:
        members = self.members[skill]
        cycle, place = divmod(position, len(members))
        if (number, cycle) not in self._orders:
            self._orders = {key: order for key, order in self._orders.items() if key[0] != number}
            self._orders[number, cycle] = np.random.default_rng([self.seed, 2, number, cycle]).permutation(len(members))
        return members[int(self._orders[number, cycle][place])]
