"""Where rewards come from: the checker on problems whose label may be read, reward models everywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from reward_models.aggregate import aggregate
from reward_models.readout import is_unsplit
from reward_models.score import Scorer
from rlhf_e2h.checker import CheckerPool
from rlhf_e2h.data.firewall import Label
from rlhf_e2h.prompts import SECTIONS, TextFormat
from rlhf_e2h.rl.rewards import Completion, Reward
from rlhf_e2h.rl.terms import RewardTerms, add_terms


class RewardSources:
    """A reward function for `train_ppo` that adds named terms, each of which may be absent.

    Step scores come from `step_model`. The outcome is the checker's verdict (1 right, 0 wrong; nothing where the
    problem has no label), plus `outcome_model_scale` times the score of `outcome_model`. `terms` (a Python function,
    length, format) come on top. Rows need `problem_id`, `problem` and `level`.
    """

    def __init__(
        self,
        labels: Mapping[str, Label],
        checker: CheckerPool | None,
        step_model: Scorer | None = None,
        outcome_model: Scorer | None = None,
        outcome_model_scale: float = 1.0,
        empty_step_score: float | None = 0.0,
        answer_step: bool = True,
        text_format: TextFormat = SECTIONS,
        terms: RewardTerms | None = None,
    ) -> None:
        """`empty_step_score` replaces the model's score of a step without text (reward models like them, and policies
        find out); None keeps it. Without `answer_step` the answer section is not scored."""
        self.labels, self.checker = labels, checker
        self.step_model, self.outcome_model, self.outcome_model_scale = step_model, outcome_model, outcome_model_scale
        self.empty_step_score, self.answer_step, self.format = empty_step_score, answer_step, text_format
        self.terms = terms

    def __call__(self, completions: Sequence[Completion]) -> list[Reward]:
        rewards = [Reward() for _ in completions]
        self._add_steps(completions, rewards)
        self._add_verdicts(completions, rewards)
        self._add_outcome_model(completions, rewards)
        if self.terms is not None:
            add_terms(self.terms, completions, rewards, self.format)
        return rewards

    def _add_steps(self, completions: Sequence[Completion], rewards: Sequence[Reward]) -> None:
        if self.step_model is None:
            return
        steps = [self.format.split_steps(c.text) for c in completions]
        scored = self.step_model.score_texts([c.row["problem"] for c in completions], steps)
        for completion, reward, texts, result in zip(completions, rewards, steps, scored, strict=True):
            pairs = zip(texts, result.steps, strict=True)
            scores = [self.empty_step_score if _is_empty(text, self.empty_step_score) else s for text, s in pairs]
            ends = self.format.step_ends(completion.text)
            kept = len(ends) if self.answer_step else scored_steps(texts, self.format)
            reward.step_ends, reward.step_scores = ends[:kept], [float(s) for s in scores[:kept] if s is not None]
            reward.extras[f"rm_level_{completion.row['level']}"] = aggregate(result.steps, "min")
            reward.extras["one_step"] = float(is_unsplit(self.step_model.contract, completion.text))

    def _add_verdicts(self, completions: Sequence[Completion], rewards: Sequence[Reward]) -> None:
        if self.checker is None:
            return
        known = [i for i, completion in enumerate(completions) if completion.row["problem_id"] in self.labels]
        pairs = []
        for i in known:
            # an unfinished text may hold the first digits of an answer: it has none
            answer = self.format.answer(completions[i].text) if completions[i].finished else None
            pairs.append((self.labels[completions[i].row["problem_id"]].answer, answer))
        for i, verdict in zip(known, self.checker.check(pairs), strict=True):
            rewards[i].outcome = float(verdict.equal)
            rewards[i].extras[f"accuracy_level_{completions[i].row['level']}"] = float(verdict.equal)

    def _add_outcome_model(self, completions: Sequence[Completion], rewards: Sequence[Reward]) -> None:
        if self.outcome_model is None:
            return
        steps = [self.format.split_steps(c.text) for c in completions]
        scored = self.outcome_model.score_texts([c.row["problem"] for c in completions], steps)
        for reward, result in zip(rewards, scored, strict=True):
            reward.outcome = (reward.outcome or 0.0) + self.outcome_model_scale * result.score
            reward.extras["outcome_model"] = result.score


def scored_steps(steps: Sequence[str], text_format: TextFormat) -> int:
    """How many steps come before the answer section: K of Sun et al. 2024, whose code does not score the answer.

    A text without an answer section has no step to leave out. A text that is nothing but its answer keeps it, or a
    policy could escape the reward model by leaving out its work.
    """
    answered = text_format.opens_answer(steps[-1])
    return len(steps) - 1 if answered and len(steps) > 1 else len(steps)


def _is_empty(step: str, replacement: float | None) -> bool:
    return replacement is not None and not step.strip()


def panel(completions: Sequence[Completion], rewards: Sequence[Reward]) -> dict[str, float]:
    """Accuracy, reward-model score and their gap by level: a gap that grows is reward hacking."""
    values: dict[str, list[float]] = defaultdict(list)
    for completion, reward in zip(completions, rewards, strict=True):
        level = completion.row["level"]
        values["eval/unfinished"].append(float(not completion.finished))
        correct = reward.extras.get(f"accuracy_level_{level}")
        score = reward.extras.get(f"rm_level_{level}")
        if correct is not None:
            values[f"eval/accuracy_level_{level}"].append(correct)
            values["eval/accuracy_easy"].append(correct)
        if score is not None:
            values[f"eval/rm_level_{level}"].append(score)
        if correct is not None and score is not None:
            values[f"eval/reward_gap_level_{level}"].append(score - correct)
    return {name: sum(numbers) / len(numbers) for name, numbers in sorted(values.items())}
