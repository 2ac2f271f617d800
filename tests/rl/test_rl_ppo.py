import json
import math
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file

from rlhf_e2h.rl.checkpoint import last_checkpoint
from rlhf_e2h.rl.ppo import train_ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings, prompt_indices
from rlhf_e2h.rl.rewards import Reward

PROMPTS = [{"prompt": "# Question\n\n" + "ab"[: i % 3] + f"{i}+1=?\n\n# Solution\n\n"} for i in range(10)]
SMALL = {
    "rollouts": 32,
    "num_mini_batches": 2,
    "per_device_train_batch_size": 8,
    "forward_batch": 8,
    "max_new_tokens": 10,
    "unfinished_penalty": 0.0,
    "learning_rate": 1e-3,
    "warmup_steps": 1,
    "save_steps": 0,
}


def share_of_sevens(completions):
    """Outcome: the share of 7s in the text. One step, scored 1/2, ends where the text ends."""
    return [Reward([len(c.text)], [0.5], c.text.count("7") / max(len(c.text), 1)) for c in completions]


def train(tiny, accelerator, reward_fn=share_of_sevens, reference=None, folder=None, stop_at=None, **settings):
    policy, value, tokenizer = tiny
    history = []

    def on_step(step, metrics, rollouts):
        history.append(metrics)
        return stop_at is not None and step + 1 == stop_at

    result = train_ppo(
        policy,
        reference,
        value,
        tokenizer,
        PROMPTS,
        reward_fn,
        PPOSettings(**{**SMALL, **settings}),
        accelerator,
        on_step,
        folder,
    )
    return result, history


def weights(*models):
    return [parameter.detach().clone() for model in models for parameter in model.parameters()]


def test_it_learns_to_write_the_rewarded_token(tiny, accelerator):
    options = {"steps": 25, "rollouts": 64, "num_mini_batches": 4, "learning_rate": 3e-3, "step_scale": 0.0}
    result, history = train(tiny, accelerator, **options)
    assert result.steps == 25
    assert history[0]["reward/outcome"] < 0.1
    assert history[-1]["reward/outcome"] > 0.6
    assert history[0]["critic/vf_explained_var"] == pytest.approx(0.0, abs=1e-6)  # the value head starts at zero
    assert history[-1]["critic/vf_explained_var"] > 0.05


def test_end_of_sequence_is_trained(tiny, accelerator):
    settings = {"steps": 15, "rollouts": 64, "num_mini_batches": 4, "learning_rate": 5e-3, "unfinished_penalty": 1.0}
    _, history = train(tiny, accelerator, lambda completions: [Reward() for _ in completions], **settings)
    assert history[0]["val/num_eos_tokens"] < 25
    assert history[-1]["val/num_eos_tokens"] > 55


def test_sampled_and_trained_logprobs_agree_and_the_first_ratio_is_one(tiny, accelerator):
    with torch.no_grad():  # an untrained model is near uniform, which would hide a wrong temperature
        tiny[0].lm_head.weight.mul_(40)
    _, history = train(tiny, accelerator, steps=1, temperature=0.7)
    assert history[0]["objective/entropy"] / history[0]["rollout/tokens"] < 3.5  # uniform: ln 49 = 3.89
    assert history[0]["rollout/logprob_diff_mean"] < 1e-5
    assert history[0]["val/ratio_first"] == pytest.approx(1.0, abs=1e-5)


def test_logprobs_of_the_sampler_give_the_same_training(tiny, accelerator):
    other = deepcopy(tiny)
    _, recomputed = train(tiny, accelerator, steps=2)
    _, taken = train(other, accelerator, steps=2, old_logprobs="sampler")
    assert taken[0]["rollout/logprob_diff_mean"] < 1e-5
    for name in ("objective/rlhf_reward", "loss/policy_avg", "loss/value_avg", "rollout/tokens"):
        assert taken[1][name] == pytest.approx(recomputed[1][name], abs=1e-4), name


def test_micro_batch_size_does_not_change_the_result(tiny, accelerator):
    other = deepcopy(tiny)
    train(tiny, accelerator, steps=2, per_device_train_batch_size=16, forward_batch=32)
    train(other, accelerator, steps=2, per_device_train_batch_size=2, forward_batch=3)
    for a, b in zip(weights(*tiny[:2]), weights(*other[:2]), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)


def test_resumed_training_equals_uninterrupted_bit_for_bit(tiny, accelerator, tmp_path):
    other, reference = deepcopy(tiny), deepcopy(tiny[0])
    settings = {"steps": 6, "kl_target": 0.01, "kl_horizon": 100.0, "kl_coef": 0.05, "num_ppo_epochs": 2}
    _, whole = train(tiny, accelerator, reference=reference, **settings)
    start = deepcopy(other)
    # stopped after step 3; the checkpoint is that of step 2, so step 3 is done again
    train(other, accelerator, reference=reference, folder=tmp_path, stop_at=3, save_steps=2, **settings)
    result, rest = train(start, accelerator, reference=reference, folder=tmp_path, save_steps=2, **settings)
    assert result.steps == 6
    assert len(rest) == 4
    assert rest[-1]["objective/kl_coef"] == whole[-1]["objective/kl_coef"] != 0.05
    for a, b in zip(weights(*tiny[:2]), weights(*start[:2]), strict=True):
        assert torch.equal(a, b)
    timeless = [{k: v for k, v in m.items() if not k.startswith("time/") and k != "eps"} for m in (whole[-1], rest[-1])]
    assert timeless[0] == timeless[1]


def test_a_damaged_checkpoint_is_passed_over_and_only_the_newest_kept(tiny, accelerator, tmp_path):
    train(tiny, accelerator, folder=tmp_path, steps=2, save_steps=1)
    assert [folder.name for folder in tmp_path.iterdir()] == ["step_000002"]
    half = tmp_path / "step_000003"
    half.mkdir()
    (half / "state.json").write_text((tmp_path / "step_000002/state.json").read_text())
    (half / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".step_000004.partial").mkdir()
    folder, state = last_checkpoint(tmp_path)
    assert folder.name == "step_000002"
    assert state["step"] == 2


def test_a_checkpoint_of_other_settings_is_refused(tiny, accelerator, tmp_path):
    train(tiny, accelerator, folder=tmp_path, steps=1, save_steps=1)
    with pytest.raises(ValueError, match=r"made with cliprange=0.2, not 0.3"):
        train(tiny, accelerator, folder=tmp_path, steps=1, cliprange=0.3)
    train(
        tiny, accelerator, folder=tmp_path, steps=1, per_device_train_batch_size=4
    )  # changes no result, so it may change
    file = tmp_path / "step_000001/state.json"
    state = json.loads(file.read_text())
    assert state["settings"].pop("load_in_4bit") is False  # as in a checkpoint from before that setting came
    file.write_text(json.dumps(state))
    train(tiny, accelerator, folder=tmp_path, steps=1)


def test_kl_is_zero_at_first_then_grows_and_stops_training(tiny, accelerator):
    settings = {"steps": 8, "learning_rate": 5e-3, "kl_coef": 0.1, "kl_alarm": 0.01, "kl_stop": 0.5}
    result, history = train(tiny, accelerator, reference=deepcopy(tiny[0]), **settings)
    assert history[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert history[0]["alarm/kl"] == 0.0
    assert history[-1]["objective/kl"] > 0.5
    assert history[-1]["alarm/kl"] == 1.0
    assert "above kl_stop 0.5" in result.stopped
    last = history[-1]
    assert last["objective/non_score_reward"] == pytest.approx(-0.1 * last["objective/kl"], rel=1e-4)
    assert last["objective/rlhf_reward"] == pytest.approx(
        last["objective/scores"] - 0.1 * last["objective/kl"], rel=1e-4
    )


def test_a_large_kl_coefficient_keeps_the_policy_near_its_reference(tiny, accelerator):
    other = deepcopy(tiny)
    settings = {"steps": 12, "num_mini_batches": 4, "learning_rate": 5e-3}
    _, free = train(tiny, accelerator, reference=deepcopy(tiny[0]), kl_coef=0.0, **settings)
    _, held = train(other, accelerator, reference=deepcopy(other[0]), kl_coef=1.0, **settings)
    assert free[-1]["objective/kl"] > 3 * held[-1]["objective/kl"]


def test_step_rewards_outcome_and_penalty_add_up(tiny, accelerator):
    def reward_fn(completions):
        return [Reward([1, len(c.text)], [0.9, 0.4], None, {"length": float(len(c.text))}) for c in completions]

    settings = {
        "step_options": {"bonus": 0.0},
        "outcome_unlabelled": 0.25,
        "unfinished_penalty": 2.0,
        "step_scale": 0.5,
    }
    _, history = train(tiny, accelerator, reward_fn, steps=1, max_new_tokens=6, **settings)
    first = history[0]
    # min_decrement: .9 - 1, .4 - .9, times .5; plus .25; minus 2 for each unfinished completion
    assert first["objective/scores"] == pytest.approx(-0.3 + 0.25 - 2.0 * first["rollout/unfinished"], abs=1e-5)
    assert first["step_rewards/sum"] == pytest.approx(-0.3, abs=1e-6)
    assert first["rollout/steps"] == 2
    assert first["val/num_eos_tokens"] == round(32 * (1 - first["rollout/unfinished"]))
    assert "reward/outcome" not in first
    assert first["reward/length"] > 0


def test_value_only_steps_leave_the_policy_alone(tiny, accelerator):
    before, values = weights(tiny[0]), weights(tiny[1])
    train(tiny, accelerator, steps=2, value_only_steps=2)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(tiny[0]), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(values, weights(tiny[1]), strict=True))


def test_lora_policy_is_its_own_reference(tiny, accelerator):
    from reward_models.lora import with_lora
    from reward_models.settings import LoraSettings

    policy, value, tokenizer = tiny
    adapted = with_lora(policy, LoraSettings(r=4))
    frozen = [p.detach().clone() for p in adapted.parameters() if not p.requires_grad]
    _, history = train((adapted, value, tokenizer), accelerator, steps=4, learning_rate=2e-2, kl_coef=0.01)
    assert history[0]["objective/kl"] == 0.0
    assert abs(history[-1]["objective/kl"]) > 1e-4
    assert all(
        torch.equal(a, b) for a, b in zip(frozen, [p for p in adapted.parameters() if not p.requires_grad], strict=True)
    )


def test_a_gradient_that_is_not_finite_stops_with_the_batch_saved(tiny, accelerator, tmp_path):
    with torch.no_grad():
        tiny[1].score.bias.fill_(math.inf)
    before = weights(tiny[0])
    with pytest.raises(FloatingPointError, match="The batch is in"):
        train(tiny, accelerator, folder=tmp_path, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(tiny[0]), strict=True))
    batch = load_file(tmp_path / "bad_step_000000/batch.safetensors")
    assert batch["mask"].shape == batch["advantages"].shape
    assert len(json.loads((tmp_path / "bad_step_000000/rollouts.json").read_text())["texts"]) == 32


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (Reward([1], [float("nan")], 0.0), "holds nan; every score must be a finite number"),
        (Reward([1], [0.5, 0.5], 0.0), "2 scores for 1 steps"),
        (Reward([10_000], [0.5], 0.0), "step end 10000 lies outside its text"),
    ],
)
def test_broken_rewards_are_refused(tiny, accelerator, reward, message):
    with pytest.raises(ValueError, match=message):
        train(tiny, accelerator, lambda completions: [reward for _ in completions], steps=1)


def test_a_wrong_number_of_rewards_is_refused(tiny, accelerator):
    with pytest.raises(ValueError, match="gave 1 rewards for 32 completions"):
        train(tiny, accelerator, lambda completions: [Reward()], steps=1)


def test_two_runs_are_identical(tiny, accelerator):
    other = deepcopy(tiny)
    train(tiny, accelerator, steps=2)
    train(other, accelerator, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(weights(*tiny[:2]), weights(*other[:2]), strict=True))


def test_every_prompt_comes_once_an_epoch_in_an_order_that_changes():
    drawn = [i for step in range(5) for i in prompt_indices(step, 4, 10, seed=1)]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]
    assert prompt_indices(0, 25, 10, seed=1)[:20] == drawn


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollouts": 30, "num_mini_batches": 4}, "do not divide by num_mini_batches 4"),
        ({"rollouts": 30, "num_mini_batches": 3, "samples_per_prompt": 4}, "do not divide by samples_per_prompt 4"),
        ({"temperature": 0.0}, "PPO needs sampling"),
        ({"kl_estimator": "k4"}, "use one of k1, k2, k3"),
        ({"step_scheme": "median"}, "use one of terminal"),
        ({"per_device_train_batch_size": 0}, "at least 1"),
    ],
)
def test_settings_are_checked_when_made(settings, message):
    with pytest.raises(ValueError, match=message):
        PPOSettings(**settings)


def test_micro_batches_must_divide():
    settings = PPOSettings(rollouts=48, num_mini_batches=2, per_device_train_batch_size=16)
    with pytest.raises(
        ValueError, match="24 rows of a batch a process do not divide by per_device_train_batch_size 16"
    ):
        settings.micro_batches(1)
    assert settings.micro_batches(2) == (12, 1)
    with pytest.raises(ValueError, match="must divide by 5 processes"):
        settings.micro_batches(5)


def test_learning_rate_warms_up_and_falls_to_its_floor():
    # warm-up over 2 steps, then cosine over 8 steps from 1 to .01: half way .505
    settings = PPOSettings(steps=10, warmup_steps=2, min_lr_rate=0.01)
    shares = [settings.learning_rate_share(step) for step in (0, 1, 2, 6)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.505])
    assert (
        PPOSettings(steps=10, warmup_steps=0, lr_scheduler_type="linear", min_lr_rate=0.0).learning_rate_share(5) == 0.5
    )
