"""What happens beside PPO training: metrics, dumps, easy-validation accuracy, the best weights, early stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from reward_models.records import read_jsonl, write_jsonl
from rlhf_e2h.parallel.gathering import gather_json, shard, unsharded
from rlhf_e2h.parallel.sharding import whole_copy, whole_weights
from rlhf_e2h.rl.checkpoint import trainable
from rlhf_e2h.rl.guards import above_kl_stop
from rlhf_e2h.rl.inputs import PolicyConfig
from rlhf_e2h.rl.ppo import Metrics
from rlhf_e2h.rl.reward_path import RewardPath
from rlhf_e2h.rl.rewards import Completion, Reward
from rlhf_e2h.rl.rollout import Rollouts, generate
from rlhf_e2h.rl.sources import RewardSources, panel
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.samples.answers import say_missing_answers
from rlhf_e2h.samples.bank import Row
from rlhf_e2h.training import spent
from rlhf_e2h.training.models import Policy


@dataclass
class Validation:
    """Easy validation problems with their labels: the only ones that may select a checkpoint."""

    rows: list[Row]
    judge: RewardSources


class Watcher:
    """What happens beside training: metrics, dumps, evaluation, the best weights, early stopping.

    Its notes are in the stage's scratch folder, so that a resumed run logs what it had logged before.
    """

    def __init__(
        self,
        config: PolicyConfig,
        run: StageRun,
        policy: Policy,
        path: RewardPath,
        bar: Any,
        validation: Validation | None,
        value_model: Any,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.run, self.policy, self.path, self.bar = config, run, policy, path, bar
        self.value_model, self.accelerator = value_model, accelerator
        self.validation = validation
        self.history: list[dict[str, Any]] | None = None  # metrics of every step; None before the first
        self.dumped: list[dict[str, Any]] = []

    def on_step(self, step: int, metrics: Metrics, rollouts: Rollouts) -> bool:
        if self.history is None:
            self._recall(step)
        assert self.history is not None
        last = step + 1 == self.config.steps or above_kl_stop(metrics, self.config.kl_stop)
        if self.validation and ((step + 1) % self.config.eval_steps == 0 or last):
            metrics |= self._evaluate(self.validation)
            # of equal ones the later: where easy problems are solved from the start, the first would be no training
            if metrics["eval/accuracy_easy"] >= max(
                (m["eval/accuracy_easy"] for m in self._evaluations()), default=-1.0
            ):
                self._save_best()
        metrics |= self._cost(rollouts)
        self.history.append({"step": step, **metrics})
        if self.run.is_main:
            self.run.log(metrics, step=step)
            self._dump(step)
            self._say_missing_answers()
            write_jsonl(self.run.scratch / "history.jsonl", self.history)
        self.bar.update(step + 1)
        return self._out_of_patience()

    def _cost(self, rollouts: Rollouts) -> Metrics:
        """What the step took, under the names of verl; evaluation is not counted."""
        readers = [s.model for s in (self.path.sources.step_model, self.path.sources.outcome_model) if s is not None]
        tokens, flops = spent.ppo_step(
            self.policy.model, self.value_model, readers, rollouts.prompt_ids, rollouts.completion_ids, self.config
        )
        return {"perf/total_num_tokens": tokens, "perf/flops": flops}

    def spend(self) -> None:
        """Count the whole training, that of an earlier, killed run included."""
        for row in self.history or []:
            self.run.spend(row.get("perf/total_num_tokens", 0), row.get("perf/flops", 0.0))

    def _recall(self, step: int) -> None:
        notes = self.run.scratch / "history.jsonl"
        self.history = [row for row in (read_jsonl(notes) if notes.is_file() else []) if row["step"] < step]
        for row in self.history if self.run.is_main else []:
            self.run.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])

    def _evaluate(self, validation: Validation) -> Metrics:
        """Each process solves a share of the problems. All get the same panel, so that they keep and stop together."""
        accelerator = self.accelerator
        rows = shard(validation.rows, accelerator)
        with accelerator.autocast(), whole_weights(self.policy.model, accelerator):
            rollouts = generate(
                self.policy.model,
                self.policy.tokenizer,
                [row["prompt"] for row in rows],
                temperature=0.0,
                max_new_tokens=self.policy.limit(self.config.max_new_tokens),
                batch_size=self.config.generation_batch,
            )
        own = [Completion(*triple) for triple in zip(rows, rollouts.texts, rollouts.finished, strict=True)]
        with self.path.whole_base():
            judged = [(one.text, one.finished, asdict(r)) for one, r in zip(own, validation.judge(own), strict=True)]
        found = unsharded(gather_json(accelerator, judged))
        completions = [Completion(row, *item[:2]) for row, item in zip(validation.rows, found, strict=True)]
        return panel(completions, [Reward(**item[2]) for item in found])

    def _evaluations(self) -> list[dict[str, Any]]:
        return [row for row in self.history or [] if "eval/accuracy_easy" in row]

    def _out_of_patience(self) -> bool:
        accuracies = [row["eval/accuracy_easy"] for row in self._evaluations()]
        if not self.config.patience or not accuracies:
            return False
        return len(accuracies) - 1 - accuracies.index(max(accuracies)) >= self.config.patience

    def _save_best(self) -> None:
        if self.config.keep != "best":
            return
        weights = whole_copy(self.policy.model, self.accelerator, trained=True)
        if self.run.is_main:
            tensors = {name: tensor.cpu().contiguous() for name, tensor in weights.items()}
            partial = self.run.scratch / ".best.safetensors"
            save_file(tensors, partial)
            partial.replace(self.run.scratch / "best.safetensors")

    def restore_best(self) -> None:
        """Put the best weights into the policy, which has to be whole."""
        if self.config.keep != "best":
            return
        best = load_file(self.run.scratch / "best.safetensors")
        with torch.no_grad():
            for name, parameter in trainable(self.policy.model).items():
                parameter.copy_(best[name])

    def _dump(self, step: int) -> None:
        for completion, reward in list(zip(*self.path.last, strict=True))[: self.config.dump]:
            row = {"step": step, "problem_id": completion.row["problem_id"], "level": completion.row["level"]}
            row |= {"text": completion.text, "finished": completion.finished}
            row |= {"steps": self.policy.text_format.split_steps(completion.text)}
            self.dumped.append({**row, "step_scores": reward.step_scores, "outcome": reward.outcome})
            self.run.row("samples", self.dumped[-1])
        if self.config.dump:
            write_jsonl(self.run.out / "rollouts.jsonl", self.dumped)

    def _say_missing_answers(self) -> None:
        """Once: a policy that writes another format than PPO reads gets no outcome reward, whatever it answers."""
        if self.run.warnings:
            return
        texts = self.policy.text_format
        rows = [{"text": c.text, "finished": c.finished, "answer": texts.answer(c.text)} for c in self.path.last[0]]
        say_missing_answers(self.run, rows, texts, least=4)

    def results(self) -> dict[str, Any]:
        shown = ("objective/scores", "objective/kl", "reward/outcome", "eval/accuracy_easy")
        last = (self.history or [{}])[-1]
        return {name: last[name] for name in shown if name in last}
