"""The models of a PPO stage with `share_base`: what can be an adapter of one base is, the rest is loaded as usual."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel

from reward_models.adapters import CannotShareError, SavedAdapter, fingerprint, read_adapter
from reward_models.contract import StepContract
from reward_models.model import load_tokenizer
from reward_models.score import Scorer
from rlhf_e2h.rl.adapter_switch import checkpoint_gradients
from rlhf_e2h.rl.inputs import PolicyConfig
from rlhf_e2h.rl.share_base import SharedReward, SharedValue, share_base, share_reward
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.places import place_of
from rlhf_e2h.runner.runs import StageRun
from rlhf_e2h.text_formats import FormatSettings
from rlhf_e2h.training.models import Policy, open_policy, policy_format, policy_tokenizer

log = logging.getLogger(__name__)


def open_base(path: Path, text_format: FormatSettings | None = None) -> tuple[Policy, SavedAdapter | None]:
    """The base that a policy was trained on with LoRA, and its adapter; else the policy itself, and None."""
    try:
        saved = read_adapter(path)
        return Policy(_base_of(saved), policy_tokenizer(path), "", *policy_format(path, text_format)), saved
    except CannotShareError as reason:
        log.info("the shared base is %s itself: %s", path, reason)
    return open_policy(path, text_format=text_format), None


def _base_of(saved: SavedAdapter) -> PreTrainedModel:
    try:
        base = open_policy(place_of(saved.folder.parent, saved.base)).model
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CannotShareError(f"the base of {saved.folder} cannot be opened ({reason})") from None
    saved.check_base(fingerprint(base), saved.base)
    return base


def share_models(
    config: PolicyConfig, run: StageRun, policy: Policy, start: SavedAdapter | None, device: torch.device
) -> tuple[SharedValue, dict[str, Scorer]]:
    """Adapters on the model of `policy`, which becomes a PEFT model: (value model, scorers by reward model).

    Raises:
        ConfigError: the value model is to start from a reward model that does not share the base.
        ValueError: an adapter has a higher rank than `lora`.
    """
    found = fingerprint(policy.model)
    policy.model, value = share_base(policy.model, config.lora, start, config.value_head_only)
    scorers: dict[str, Scorer] = {}
    for name in ("reward_model", "outcome_model"):
        reference = getattr(config, name)
        if reference is None or reference in scorers:
            continue
        try:
            scorers[reference] = _scorer(config, run.path(reference), policy, found, name, device)
        except CannotShareError as reason:
            if name == "reward_model" and config.value_init != "policy":
                raise ConfigError(
                    f"{run.name}: with share_base, value_init {config.value_init!r} needs a reward model on the same "
                    f"base, but {reason}; set value_init: policy, or train both with LoRA from one base"
                ) from None
            if run.is_main:
                log.warning("%s: %s is loaded beside the shared base: %s", run.name, name, reason)
    if config.value_init != "policy":
        assert config.reward_model is not None  # checked by Config
        _start_value(value, scorers[config.reward_model], policy, config.value_init == "reward_zero_head")
    if config.gradient_checkpointing:
        checkpoint_gradients(policy.model)
    return value, scorers


def _scorer(config: PolicyConfig, path: Path, policy: Policy, found: str, name: str, device: torch.device) -> Scorer:
    saved = read_adapter(path)
    saved.check_base(found, str(policy.model.config.name_or_path))
    contract = StepContract.from_config(AutoConfig.from_pretrained(path), str(path))
    model = share_reward(policy.model, f"{name}_adapter", saved)
    model.score.to(device)  # the trunk goes there with the policy
    return Scorer(model, load_tokenizer(path), contract, max_tokens_per_batch=config.reward_batch_tokens)  # type: ignore[arg-type]


def _start_value(value: SharedValue, scorer: Scorer, policy: Policy, zero_head: bool) -> None:
    if scorer.tokenizer.get_vocab() != policy.tokenizer.get_vocab():
        raise ConfigError(
            "the reward model has another tokenizer than the policy, so it can give rewards (by text), but no value "
            "model can start from it; use value_init: policy"
        )
    reward = scorer.model
    assert isinstance(reward, SharedReward)
    value.start_from(reward, zero_head)
