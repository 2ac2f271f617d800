"""One PPO iteration (rollout, scoring, update) of ours against TRL 1.12.0's PPOTrainer, interleaved in one run.

    python benchmarks/ppo.py --peer-python /path/to/venv/bin/python          # an environment with trl==1.12.0

Both get the same policy, reference, reward model, prompts, batch and lengths, and a terminal reward. With `--lengths
natural` the shipped base model samples, whose solutions end by themselves; `--lengths full` makes every completion as
long as the limit, so that both sides handle exactly the same number of tokens. One side waits while the other works,
and the first iteration of each is not counted. Without a GPU processor seconds are compared, not the clock on the wall.
Set OMP_NUM_THREADS to the cores you have to yourself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as hf_logging

from reward_models.contract import StepContract
from reward_models.model import head_of, new_model
from reward_models.score import Scorer
from rlhf_e2h.data.procedural import make_problems
from rlhf_e2h.prompts import SECTIONS
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.sources import RewardSources
from rlhf_e2h.rl.value_model import value_from_reward_model
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama

BASE = Path(__file__).parents[1] / "rlhf_e2h" / "assets" / "base"
PEER = Path(__file__).parent / "peers" / "trl_ppo.py"


def make_models(folder: Path, shape: ModelShape | None, full: bool) -> None:
    """policy/, prm/ (ours) and reward/ (the same weights as a sequence classifier, for TRL)."""
    policy, tokenizer = load_policy(BASE) if shape is None else new_llama(shape, "procedural", seed=0)
    policy.save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    prm = new_model(folder / "policy", StepContract("prm"))
    torch.nn.init.normal_(head_of(prm).weight, std=0.1, generator=torch.Generator().manual_seed(1))
    prm.save_pretrained(folder / "prm")
    tokenizer.save_pretrained(folder / "prm")
    config = AutoConfig.from_pretrained(folder / "policy", num_labels=1)
    peer = AutoModelForSequenceClassification.from_config(config)
    peer.base_model.load_state_dict(prm.base_model.state_dict())
    peer.score.weight.data.copy_(head_of(prm).weight.data)
    peer.save_pretrained(folder / "reward")
    if full:  # an end of sequence that no logit stands for: nothing ever ends before the limit
        tokenizer.add_special_tokens({"eos_token": "<never>"})
        tokenizer.save_pretrained(folder / "policy")


class Peer:
    """TRL in its own process, one iteration for each `step`."""

    def __init__(self, python: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [python, str(PEER), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(folder / "peer.log").open("w"),
            text=True,
        )
        try:
            self._read()
        except json.JSONDecodeError:
            raise SystemExit(f"the peer did not start:\n{(folder / 'peer.log').read_text()[-2000:]}") from None

    def step(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def ours(folder: Path, settings: PPOSettings, on_step: Any, accelerator: Accelerator) -> None:
    """Train with four separate models, as TRL does."""
    policy, tokenizer = load_policy(folder / "policy")
    reference, _ = load_policy(folder / "policy")
    _, plain = load_policy(folder / "prm")
    value = value_from_reward_model(folder / "prm", plain, zero_head=False)
    scorer = Scorer.from_pretrained(folder / "prm", accelerator.device)
    prompts = json.loads((folder / "prompts.json").read_text())
    rows = [{"prompt": text, "problem": text, "problem_id": str(i), "level": 1} for i, text in enumerate(prompts)]
    rewards = RewardSources({}, None, scorer, empty_step_score=None)
    train_ppo(policy, reference, value, tokenizer, rows, rewards, settings, accelerator, on_step)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    shape = None
    if arguments.hidden:
        heads = max(1, arguments.hidden // 32)
        shape = ModelShape(arguments.hidden, arguments.layers, 3 * arguments.hidden, heads)
    settings = PPOSettings(
        steps=arguments.repeats + 1,
        rollouts=arguments.rollouts,
        num_mini_batches=4,
        per_device_train_batch_size=arguments.rollouts // 4,
        forward_batch=arguments.forward_batch,
        generation_batch=arguments.rollouts,
        max_new_tokens=arguments.new_tokens,
        old_logprobs="sampler",
        step_scheme="terminal",
        step_options={"aggregation": "last"},
        learning_rate=1e-5,
        warmup_steps=0,
        save_steps=0,
    )
    times: dict[str, list[float]] = {"ours": [], "trl": [], "ours_wall": [], "trl_wall": []}
    laps: list[dict[str, float]] = []
    accelerator = Accelerator(mixed_precision="bf16" if arguments.bf16 else "no")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_models(folder, shape, arguments.lengths == "full")
        problems = make_problems(dict.fromkeys(range(1, 6), arguments.rollouts // 5 + 1), seed=11)
        prompts = [SECTIONS.prompt(problem["problem"]) for problem in problems]
        (folder / "prompts.json").write_text(json.dumps(prompts))
        shared = ("rollouts", "num_mini_batches", "num_ppo_epochs", "per_device_train_batch_size", "max_new_tokens")
        row = {key: getattr(settings, key) for key in (*shared, "temperature", "learning_rate", "steps", "kl_coef")}
        row |= {"peer_forward_batch": arguments.peer_forward_batch or arguments.rollouts}
        row |= {"bf16": arguments.bf16, "cuda": torch.cuda.is_available()}
        (folder / "settings.json").write_text(json.dumps(row))
        peer = Peer(arguments.peer_python, folder) if arguments.peer_python else None

        marks = [time.process_time()]

        def on_step(step: int, metrics: dict[str, float], _: Any) -> None:
            mine = {"seconds": sum(metrics[key] for key in metrics if key.startswith("time/"))}
            mine["cpu"] = time.process_time() - marks[-1]
            theirs = peer.step() if peer else None
            print(f"iteration {step}: ours {mine}, TRL {theirs}", file=sys.stderr, flush=True)
            if step:
                for who, row in (("ours", mine), ("trl", theirs)) if theirs else (("ours", mine),):
                    times[who].append(row["cpu" if arguments.clock == "cpu" else "seconds"])
                    times[f"{who}_wall"].append(row["seconds"])
                laps.append({key: value for key, value in metrics.items() if key.startswith(("time/", "rollout/tok"))})
            marks.append(time.process_time())

        ours(folder, settings, on_step, accelerator)
        if peer:
            peer.close()
    means = {key: statistics.mean(lap[key] for lap in laps) for key in laps[0]}
    pairs = zip(times["ours"], times["trl"], strict=True) if arguments.peer_python else []
    ratios = [theirs / mine for mine, theirs in pairs]
    return {
        "lengths": arguments.lengths,
        "clock": arguments.clock,
        "ours_s": statistics.median(times["ours"]),
        "trl_s": statistics.median(times["trl"]) if ratios else None,
        "ratio": statistics.median(ratios) if ratios else None,
        "ratios": sorted(round(ratio, 2) for ratio in ratios),
        "wall": {who: [round(t, 2) for t in times[f"{who}_wall"]] for who in ("ours", "trl")},
        **means,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="interpreter of an environment with trl==1.12.0; without it, ours alone")
    parser.add_argument("--lengths", choices=("natural", "full"), default="natural")
    parser.add_argument("--hidden", type=int, default=0, help="0: the shipped base model")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rollouts", type=int, default=128)
    parser.add_argument("--forward-batch", type=int, default=64)
    parser.add_argument("--peer-forward-batch", type=int, default=0, help="0: all rollouts at once")
    parser.add_argument("--new-tokens", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=5)
    clock = "wall" if torch.cuda.is_available() else "cpu"  # processor time: other people's work changes it little
    parser.add_argument("--clock", choices=("wall", "cpu"), default=clock)
    parser.add_argument("--bf16", action="store_true")
    arguments = parser.parse_args()
    hf_logging.set_verbosity_error()
    started = time.perf_counter()
    row = compare(arguments)
    print(json.dumps({**row, "total_s": round(time.perf_counter() - started, 1)}, indent=1))


if __name__ == "__main__":
    main()
