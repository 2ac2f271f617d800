"""Settings that had another name: whoever still writes the old one is told the new one."""

from __future__ import annotations

from collections.abc import Collection

# old name -> new ones, of which a class has one; after a dot: in a group of settings
RENAMED = {
    "adam_eps": ("adam_epsilon",),
    "alpha": ("lora_alpha",),
    "beta2": ("adam_beta2",),
    "betas": ("adam_beta1 and adam_beta2",),
    "checkpoint_every": ("save_steps",),
    "clip": ("cliprange", "epsilon"),
    "dropout": ("lora_dropout",),
    "epochs": ("num_train_epochs", "num_ppo_epochs"),
    "eval_every": ("eval_steps",),
    "final_share": ("min_lr_rate",),
    "generations": ("num_generations",),
    "iterations": ("num_iterations",),
    "log_every": ("logging_steps",),
    "lora": ("training.lora",),
    "lora_rank": ("lora.r",),
    "lr_schedule": ("lr_scheduler_type",),
    "micro_batch": ("per_device_train_batch_size",),
    "micro_batch_size": ("per_device_train_batch_size",),
    "minibatches": ("num_mini_batches",),
    "rank": ("r",),
    "schedule": ("lr_scheduler_type",),
    "value_clip": ("cliprange_value",),
    "value_coef": ("vf_coef",),
    "warmup": ("warmup_steps, which below 1 is a share of all steps",),
    "warmup_ratio": ("warmup_steps, which below 1 is a share of all steps",),
}
# old group -> one of its settings, which stand where the group stood
MOVED = {"ppo": "kl_coef"}


def renamed(name: str, known: Collection[str]) -> str | None:
    """A sentence with the new name of a setting, if `known` are the settings of a class that has it."""
    for new in RENAMED.get(name, ()):
        if new.replace(",", " ").replace(".", " ").split()[0] in known:
            return f"{name} was renamed to {new}"
    if MOVED.get(name) in known:
        return f"the settings of `{name}` stand where `{name}` stood: write {MOVED[name]}, not {name}.{MOVED[name]}"
    return None
