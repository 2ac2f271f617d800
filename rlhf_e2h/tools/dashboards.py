"""Saved views of a wandb project, one for each kind of stage: which curves, in which order, in which sections.

    python -m rlhf_e2h.tools.dashboards PROJECT --entity ME           # saved on the server, each with its address
    python -m rlhf_e2h.tools.dashboards PROJECT --out views           # as JSON files; asks nobody

Needs `pip install 'rlhf_e2h[dashboards]'` (wandb-workspaces). A view shows the runs of its kind of stage (wandb's job
type), grouped by stage, over the stage's own step.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.mirrors import STEP

TRAINING = {
    "Loss": ("train/loss", "train/grad_norm", "train/learning_rate"),
    "Cost": ("train/num_input_tokens_seen",),
}
SAMPLES = ("judge/easy_accuracy", "judge/rm_mean", "judge/unfinished")
# kind of stage -> section -> metrics, a panel each; one that ends in `*` has a line for every metric that begins so
PANELS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "pretrain": TRAINING,
    "sft": {**TRAINING, "Fit": ("train/mean_token_accuracy", "train/entropy")},
    "reward": {
        "Loss": ("train/loss", "train/grad_norm", "train/learning_rate"),
        "Held-out easy problems": ("validation/*auc", "validation/*accuracy", "validation/calibration_error"),
    },
    "ppo": {
        "Reward": ("objective/scores", "objective/kl", "objective/kl_coef", "reward/outcome", "step_rewards/sum"),
        "Easy validation": ("eval/accuracy_easy", "eval/accuracy_level_*", "eval/reward_gap_level_*"),
        "Rollouts": (
            "rollout/tokens", "rollout/steps", "rollout/tokens_per_step", "rollout/empty_steps", "rollout/unfinished",
        ),
        "By level": ("reward/rm_level_*", "reward/accuracy_level_*"),
        "Health": (
            "val/ratio_first", "rollout/logprob_diff_mean", "policy/clipfrac_avg", "policy/approxkl_avg",
            "policy/entropy_avg", "policy/grad_norm", "alarm/*",
        ),
        "Value model": ("critic/vf_explained_var", "loss/value_avg", "critic/grad_norm"),
        "Cost": ("time/*", "perf/total_num_tokens", "perf/flops"),
    },
    "grpo": {
        "Reward": ("train/reward", "train/kl", "train/rollout/unfinished"),
        "Loss": ("train/loss", "train/grad_norm", "train/learning_rate"),
    },
    "dpo": {
        "Pairs": ("dpo/pairs", "dpo/pairs_labelled"),
        "Samples": SAMPLES,
        "Preference": ("train/rewards/accuracies", "train/rewards/margins", "train/logps/chosen"),
        "Easy validation": ("eval/accuracy_easy",),
        **TRAINING,
    },
    "rest": {
        "Kept": ("rest/kept", "rest/kept_labelled"),
        "Samples": SAMPLES,
        "Easy validation": ("eval/accuracy_easy",),
        **TRAINING,
    },
}  # fmt: skip


def views(project: str, entity: str, kinds: Sequence[str] = ()) -> dict[str, Any]:
    """A `wandb_workspaces` Workspace for each kind of stage; nothing is sent before `save`.

    Raises:
        ConfigError: wandb-workspaces is not installed, or a kind of stage that has no panels.
    """
    try:
        from wandb_workspaces import workspaces
        from wandb_workspaces.reports import v2
    except ImportError:
        raise ConfigError("wandb-workspaces is not installed; run `pip install 'rlhf_e2h[dashboards]'`") from None
    unknown = [kind for kind in kinds if kind not in PANELS]
    if unknown:
        raise ConfigError(f"{unknown[0]!r} has no panels; these kinds of stages do: {', '.join(PANELS)}")
    step = v2.Metric(STEP)

    def panel(metric: str) -> Any:
        if "*" in metric:
            return v2.LinePlot(title=metric, x=step, metric_regex=metric.replace("*", ".*"))
        return v2.LinePlot(title=metric, x=step, y=[metric])

    return {
        kind: workspaces.Workspace(
            entity=entity,
            project=project,
            name=f"rlhf_e2h {kind}",
            sections=[
                workspaces.Section(name=name, panels=[panel(metric) for metric in metrics], is_open=True)
                for name, metrics in PANELS[kind].items()
            ],
            settings=workspaces.WorkspaceSettings(x_axis=STEP),
            runset_settings=workspaces.RunsetSettings(filters=f"JobType = '{kind}'"),
        )
        for kind in kinds or PANELS
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m rlhf_e2h.tools.dashboards", description=(__doc__ or "").partition("\n")[0]
    )
    made.add_argument("project", help="wandb.project of the recipe")
    made.add_argument("--entity", default="", help="the account or team it belongs to")
    made.add_argument(
        "--kind", nargs="+", default=[], metavar="STAGE", help=f"of {', '.join(PANELS)}; all if not given"
    )
    made.add_argument("--out", type=Path, metavar="FOLDER", help="write KIND.json files there and send nothing")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Save the views, or write them down; returns the exit code."""
    args = parser().parse_args(arguments)
    try:
        if not args.out and not args.entity:
            raise ConfigError("give --entity, the wandb account or team of the project, or --out FOLDER")
        for kind, view in views(args.project, args.entity, args.kind).items():
            print(f"{kind}: {_written(view, args.out / f'{kind}.json') if args.out else _saved(view)}")
    except (ConfigError, OSError) as error:
        print(f"dashboards: {error}", file=sys.stderr)
        return 2
    return 0


def _written(view: Any, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    spec = view._to_model().spec.model_dump(by_alias=True, exclude_none=True, mode="json")
    file.write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
    return file


def _saved(view: Any) -> str:
    try:
        return str(view.save().url)
    except Exception as error:  # no login, no such project, no network: the first line of it says which
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"wandb does not take the view ({first[:200]}); `wandb login`, or --out FOLDER") from None


if __name__ == "__main__":
    sys.exit(main())
