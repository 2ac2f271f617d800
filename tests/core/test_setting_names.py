"""One name for a setting, the ecosystem's, in every stage; an old one is refused with the new one."""

import dataclasses

import pytest
from peft import LoraConfig
from transformers import TrainingArguments

from reward_models.arguments import scorer_arguments, training_arguments
from reward_models.renamed import RENAMED
from reward_models.settings import LoraSettings, TrainerSettings, TrainSettings, setting_names
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.runner.config import ConfigError, build, result_settings
from rlhf_e2h.runner.traits import STAGES
from rlhf_e2h.stages import dpo, grpo, ppo, reward, sft
from rlhf_e2h.training.arguments import TrainingSettings

# settings of training that transformers does not have, and why
OURS = {
    "batch_size",  # the global one; accumulation follows from it
    "max_length",  # of TRL's configs
    "lora",
    "load_in_4bit",  # of BitsAndBytesConfig
    "freeze_embeddings",
    "freeze_norms",
    "extra",
}


def names(settings):
    return {one.name for one in dataclasses.fields(settings)}


def test_settings_of_training_are_those_of_transformers_and_peft():
    assert names(TrainerSettings) - OURS <= names(TrainingArguments)
    assert names(LoraSettings) <= names(LoraConfig)


def test_all_that_trains_has_the_same_settings():
    shared = names(TrainerSettings) & names(PPOSettings)
    assert {"learning_rate", "lr_scheduler_type", "warmup_steps", "lora", "per_device_train_batch_size"} <= shared
    for settings in (TrainingSettings, dpo.DPOTraining, grpo.GRPOTraining, TrainSettings):
        assert names(TrainerSettings) <= names(settings)
    assert names(PPOSettings) <= names(ppo.Config)


FIRST = {"policy": "p", "data": "d"}


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        (sft, {"training": {"epochs": 2}}, "training: epochs was renamed to num_train_epochs"),
        (
            sft,
            {"training": {"warmup_ratio": 0.1}},
            "warmup_ratio was renamed to warmup_steps, which below 1",
        ),
        (sft, {"lora": {"rank": 8}}, "lora was renamed to training.lora"),
        (sft, {"training": {"lora": {"rank": 8}}}, "training: lora: rank was renamed to r"),
        (dpo, {"training": {"schedule": "linear"}}, "schedule was renamed to lr_scheduler_type"),
        (grpo, {"generations": 4}, "generations was renamed to num_generations"),
        (ppo, {"ppo": {"kl_coef": 0.1}}, "stand where `ppo` stood: write kl_coef, not ppo.kl_coef"),
        (ppo, {"epochs": 2}, "epochs was renamed to num_ppo_epochs"),
        (ppo, {"betas": [0.9, 0.95]}, "betas was renamed to adam_beta1 and adam_beta2"),
        (reward, {"training": {"lora_rank": 8}}, "lora_rank was renamed to lora.r"),
        (reward, {"training": {"lr_schedule": "linear"}}, "lr_schedule was renamed to lr_scheduler_type"),
        # a name that this class never had is misspelt
        (sft, {"training": {"minibatches": 2}}, "unknown setting 'minibatches'"),
    ],
)
def test_an_old_name_is_refused_with_the_new_one(stage, settings, message):
    given = {"kind": "orm", "base": "b", "data": "d"} if stage is reward else FIRST
    with pytest.raises(ConfigError, match=message):
        build(stage.Config, given | settings, "stage.yaml")


def test_every_new_name_is_one():
    """And no class has both names: the old one would not be refused."""
    known = set()
    for kind, traits in STAGES.items():
        module = __import__(traits.module, fromlist=["Config"])
        for group in _groups(module.Config):
            both = {old for old, new in RENAMED.items() if old in group and new[0].split(".")[0] in group}
            assert not both, f"{kind}: {both}"
            known |= group
    for old, new in RENAMED.items():
        for one in new:
            assert one.replace(",", " ").replace(".", " ").split()[0] in known, old


def _groups(settings):
    found = setting_names(settings)
    yield {name.split(".")[0] for name in found}
    for group in {name.rpartition(".")[0] for name in found} - {""}:
        yield {name.removeprefix(f"{group}.").split(".")[0] for name in found if name.startswith(f"{group}.")}


def test_further_arguments_reach_the_library_and_are_part_of_the_identity(tmp_path):
    plain, more = TrainingSettings(), TrainingSettings(extra={"optim": "adafactor"})
    made = training_arguments(more, tmp_path, 0)
    assert type(made).__name__ == "SFTConfig" and made.optim == "adafactor"
    assert training_arguments(plain, tmp_path, 0).optim != "adafactor"
    assert result_settings(plain) != result_settings(more)
    made = scorer_arguments(tmp_path, TrainSettings(extra={"label_smoothing_factor": 0.1}), "orm", 64)
    assert made.label_smoothing_factor == 0.1


@pytest.mark.parametrize(
    ("settings", "extra", "message"),
    [
        (
            TrainingSettings,
            {"optin": "adafactor"},
            "optin is not an argument of trl.SFTConfig; did you mean optim",
        ),
        (TrainSettings, {"learning_rate": 1.0}, "extra.learning_rate: learning_rate is a setting of its own"),
        (TrainSettings, {"seed": 1}, "extra.seed: seed is a setting of its own"),
        (
            TrainingSettings,
            {"gradient_accumulation_steps": 2},
            "follows from other settings",
        ),
        (TrainSettings, {"packing": True}, "extra.packing is not an argument of transformers.TrainingArguments"),
    ],
)
def test_wrong_further_arguments_are_refused_when_settings_are_read(settings, extra, message):
    with pytest.raises(ValueError, match=message):
        settings(extra=extra)


def test_rloo_checks_further_arguments_against_its_own_class():
    settings = {"reward_model": "r", "algorithm": "rloo", "num_generations": 2}
    made = build(grpo.Config, FIRST | settings, "")
    assert (made.training.ARGUMENTS, made.training.learning_rate) == ("trl.RLOOConfig", 1e-6)
    with pytest.raises(ConfigError, match=r"extra.loss_type is not an argument of trl.RLOOConfig"):
        build(grpo.Config, FIRST | settings | {"training": {"extra": {"loss_type": "dapo"}}}, "")


def test_part_of_the_settings_keeps_the_other_defaults_of_a_stage():
    made = build(dpo.Config, FIRST | {"reward_model": "r", "training": {"num_train_epochs": 3}}, "")
    assert (made.training.learning_rate, made.training.batch_size) == (2e-6, 64)


def test_target_modules_are_a_word_or_a_list():
    for value in ("all-linear", ["q_proj", "v_proj"]):
        made = build(sft.Config, FIRST | {"training": {"lora": {"r": 4, "target_modules": value}}}, "")
        assert made.training.lora.target_modules == value
    with pytest.raises(ConfigError, match="target_modules is 3"):
        build(sft.Config, FIRST | {"training": {"lora": {"target_modules": 3}}}, "")


def test_micro_batches_of_nothing_said_divide_and_stay_small():
    # 96 rows a process: the largest divisor up to 32; 40: 20
    assert [TrainerSettings(batch_size=n).micro_batch_rows(2) for n in (192, 80, 8)] == [32, 20, 4]
    with pytest.raises(ValueError, match="does not divide by 3 processes"):
        TrainerSettings(batch_size=32).micro_batch_rows(3)
