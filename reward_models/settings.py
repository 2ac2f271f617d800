"""How models are trained: every setting, with its comment where it stands.

Names are those of transformers' TrainingArguments and PEFT's LoraConfig. `OptimisationSettings` hold for whatever is
trained, by PPO too; `TrainerSettings` for all that a Hugging Face Trainer trains; `TrainSettings` for reward models.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, field, fields, is_dataclass
from operator import attrgetter
from typing import Any, ClassVar, Literal

LOSS_ON = ("every_token", "step_end")  # see targets.py
Bf16 = Literal[True, False, "auto"]  # what it means on this machine is in bf16.py
AT_ONCE = 32  # sequences on one process where nothing is said
# arguments of a Trainer that follow from settings, or from where it runs
_DERIVED = ("output_dir", "gradient_accumulation_steps", "seed", "data_seed", "use_cpu", "report_to", "disable_tqdm")


def neutral(default: Any) -> Any:
    """A setting that does not change the result, and so is not part of a stage's identity."""
    return field(default=default, metadata={"affects_result": False})


@dataclass
class LoraSettings:
    """Adapters."""

    r: int = 0  # rank; 0: no adapters, all weights are trained
    lora_alpha: int = 16
    lora_dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"  # or names of layers, such as [q_proj, v_proj]

    def __post_init__(self) -> None:
        if self.r < 0 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise ValueError(
                f"r {self.r}, lora_alpha {self.lora_alpha} and lora_dropout {self.lora_dropout} must be at least 0, "
                "above 0, and from 0 to below 1"
            )


@dataclass
class OptimisationSettings:
    """Of everything that is trained."""

    learning_rate: float = 1e-4
    lr_scheduler_type: str = "cosine"  # any scheduler of transformers: linear, constant_with_warmup ...
    warmup_steps: float = 0.05  # below 1 it is a share of all steps
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999  # averages over a thousand steps; 0.95 for runs that are hardly longer
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    per_device_train_batch_size: int | None = neutral(None)  # sequences at once on one process; not given: at most 32
    bf16: Bf16 = False  # autocast; what is trained stays float32; auto: where the card or processor computes it
    gradient_checkpointing: bool = False
    # without LoRA: train all but input and output embeddings, all but norms; the paper freezes both everywhere
    freeze_embeddings: bool = False
    freeze_norms: bool = False
    lora: LoraSettings = field(default_factory=LoraSettings)
    load_in_4bit: bool = False  # QLoRA: frozen weights in 4 bits; needs lora.r above 0 and bitsandbytes
    save_steps: int = 0  # between checkpoints, from which a killed run resumes; 0: none
    save_total_limit: int = neutral(1)  # checkpoints that are kept; one more while it is written

    def __post_init__(self) -> None:
        if self.per_device_train_batch_size is not None and self.per_device_train_batch_size < 1:
            raise ValueError(
                f"per_device_train_batch_size is {self.per_device_train_batch_size}; it must be at least 1, or null"
            )
        if self.warmup_steps < 0 or self.save_steps < 0 or self.save_total_limit < 1:
            raise ValueError(
                f"warmup_steps {self.warmup_steps} and save_steps {self.save_steps} must be at least 0, "
                f"save_total_limit {self.save_total_limit} at least 1"
            )
        if self.load_in_4bit and not self.lora.r:
            raise ValueError("load_in_4bit needs lora.r above 0; 4-bit weights cannot be trained themselves")

    def rows_at_once(self, share: int) -> int:
        """Rows of a micro-batch, where a process has `share` rows of a batch.

        Raises:
            ValueError: per_device_train_batch_size is no divisor of them.
        """
        if self.per_device_train_batch_size is None:
            return max(rows for rows in range(1, min(share, AT_ONCE) + 1) if share % rows == 0)
        rows = min(self.per_device_train_batch_size, share)
        if share % rows:
            raise ValueError(
                f"{share} rows of a batch a process do not divide by per_device_train_batch_size {rows}; use a divisor"
            )
        return rows


@dataclass
class TrainerSettings(OptimisationSettings):
    """Of everything that a Hugging Face Trainer trains."""

    ARGUMENTS: ClassVar[str] = "transformers.TrainingArguments"  # the library's own class, of which `extra` is a part

    num_train_epochs: float = 1.0
    max_steps: int = -1  # overrides num_train_epochs where positive
    batch_size: int = 32  # sequences per optimiser step, over all processes; accumulation follows from it
    # of the schedule; the paper's code: cosine_with_min_lr with {min_lr_rate: 0.01}
    lr_scheduler_kwargs: dict[str, float] = field(default_factory=dict)
    max_length: int = 1024  # tokens
    extra: dict[str, Any] = field(
        default_factory=dict
    )  # arguments of the library's trainer, such as {optim: adafactor}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size} must be at least 1")
        micro = self.per_device_train_batch_size or 1
        if self.batch_size > micro and self.batch_size % micro:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of per_device_train_batch_size {micro}; "
                "change one of them"
            )
        self._check_extra()

    def refuse(self, why: str, *names: str) -> None:
        """
        Raises:
            ValueError: one of these settings is set, and this training does not have it.
        """
        for name in names:
            if value := attrgetter(name)(self):
                raise ValueError(f"{name} is {value}, but {why}; leave it out")

    def _check_extra(self) -> None:
        if not self.extra:
            return
        known = {one.name for one in fields(self.arguments_class())}
        ours = {one.name for one in fields(self)}
        for name in self.extra:
            if name in ours or name in _DERIVED:
                what = "is a setting of its own" if name in ours else "follows from other settings"
                raise ValueError(f"extra.{name}: {name} {what}; take it out of extra")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise ValueError(f"extra.{name} is not an argument of {self.ARGUMENTS}{hint}")

    def arguments_class(self) -> Any:
        package, _, name = self.ARGUMENTS.partition(".")
        return getattr(importlib.import_module(package), name)

    def micro_batch_rows(self, processes: int) -> int:
        """Sequences at once on one of N processes.

        Raises:
            ValueError: the global batch does not divide by processes times micro-batch.
        """
        share = self.batch_size // processes
        if not share or self.batch_size % processes:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide by {processes} processes; make it a multiple of them"
            )
        return self.rows_at_once(share)


@dataclass
class TrainSettings(TrainerSettings):
    """Of a reward model. The defaults are the paper's for 7B models (Table 4); a model of a million wants 1e-3."""

    learning_rate: float = 2e-5
    num_train_epochs: float = 2.0
    batch_size: int = 128
    warmup_steps: float = 0.1
    seed: int = 0  # in a stage that of the run takes its place
    loss_on: str = "every_token"  # or "step_end"; see targets.py
    orm_share: float | None = None  # OPRM: share of outcome records in the mixture; None: records as they come
    freeze_layers: int = 0  # N layers from the bottom, the embeddings below them included
    group_by_length: bool = True  # batches of similar length: less padding
    # a batch is one row without padding, and no text attends to another: by kernel with flash attention, elsewhere by a
    # block-diagonal mask, whose memory grows with the square of the micro-batch's tokens
    padding_free: bool = False
    # what rows of a micro-batch begin with alike is read once, for the same loss (shared_prefixes.py); the rows of a
    # problem then stand together, so give many rows a micro-batch and batches of several of them
    share_prefixes: bool = False
    logging_steps: int = neutral(20)
    eval_steps: int = 0  # steps between evaluations on `validation`; 0: only at the end
    patience: int = 0  # evaluations without a better one before stopping; 0: run to the end, keep the last weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss_on not in LOSS_ON:
            raise ValueError(f"loss_on {self.loss_on!r} is not known; choose one of {', '.join(LOSS_ON)}")
        if self.padding_free and self.share_prefixes:
            raise ValueError("padding_free keeps texts apart and share_prefixes merges them; set one of them to false")
        if self.patience and not self.eval_steps:
            raise ValueError(f"patience is {self.patience} but eval_steps is 0; early stopping needs evaluations")
        if self.patience and self.save_steps % self.eval_steps:
            raise ValueError("with early stopping save_steps must be a multiple of eval_steps, or 0")
        if self.freeze_layers < 0 or (self.freeze_layers and self.lora.r):
            raise ValueError(
                f"freeze_layers is {self.freeze_layers} with lora.r {self.lora.r}; it must be at least 0, and 0 "
                "with LoRA, which freezes everything but its adapters"
            )


@dataclass
class PairwiseSettings(TrainerSettings):
    """How to train a pairwise reward model."""

    ARGUMENTS: ClassVar[str] = "trl.RewardConfig"

    learning_rate: float = 1e-5
    lr_scheduler_type: str = "linear"
    warmup_steps: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse("a pairwise model trains all weights and keeps no checkpoints", "lora.r", "save_steps")


def setting_names(settings: type) -> list[str]:
    """What may be set, the settings of a group with a dot: `learning_rate`, `lora.r`."""
    found: list[str] = []
    for one in fields(settings):
        group = one.default_factory
        inner: list[str] = setting_names(group) if isinstance(group, type) and is_dataclass(group) else []
        found += [f"{one.name}.{name}" for name in inner] or [one.name]
    return found
