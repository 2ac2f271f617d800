"""How to train a reward model: every setting, with its comment where it stands."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass

from reward_models.targets import LOSS_ON


@dataclass
class LoraSettings:
    """Adapters, under the names of PEFT's LoraConfig."""

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


def setting_names(settings: type) -> list[str]:
    """What may be set, the settings of a group with a dot: `learning_rate`, `lora.r`."""
    found = []
    for one in fields(settings):
        group = one.default_factory
        inner = setting_names(group) if isinstance(group, type) and is_dataclass(group) else []
        found += [f"{one.name}.{name}" for name in inner] or [one.name]
    return found


@dataclass
class TrainSettings:
    """How to train. The defaults are the paper's for 7B models (Table 4); a model of a million wants 1e-3."""

    learning_rate: float = 2e-5
    epochs: float = 2.0
    batch_size: int = 128  # solutions per optimiser step, over all processes
    micro_batch_size: int | None = None  # solutions per process and forward pass; None: the whole share of the batch
    warmup: float = 0.1  # share of all steps over which the learning rate rises
    weight_decay: float = 0.0
    lr_schedule: str = "cosine"  # any name of the Hugging Face Trainer: linear, cosine, constant_with_warmup ...
    # of the schedule; the paper's code: cosine_with_min_lr with {min_lr_rate: 0.01}
    lr_scheduler_kwargs: dict[str, float] = field(default_factory=dict, metadata={"added": True})
    max_grad_norm: float = 1.0
    adam_beta2: float = 0.999  # averages over a thousand steps; 0.95 for runs that are hardly longer
    seed: int = 0
    bf16: bool = False  # autocast; the weights stay float32
    max_length: int = 1024  # tokens; longer records are left out and counted
    loss_on: str = "every_token"  # or "step_end"; see targets.py
    orm_share: float | None = None  # OPRM: share of outcome records in the mixture; None: records as they come
    lora: LoraSettings = field(default_factory=LoraSettings)
    load_in_4bit: bool = False  # QLoRA; needs bitsandbytes and lora.r above 0
    freeze_embeddings: bool = False  # the paper freezes embeddings and norms
    freeze_norms: bool = False
    freeze_layers: int = 0  # N layers from the bottom, the embeddings below them included
    gradient_checkpointing: bool = False
    group_by_length: bool = True  # batches of similar length: less padding
    # a batch is one row without padding, and no text attends to another: by kernel with flash attention, elsewhere by a
    # block-diagonal mask, whose memory grows with the square of the micro-batch's tokens
    padding_free: bool = False
    log_every: int = 20  # steps
    eval_every: int = 0  # steps between evaluations on `validation`; 0: only at the end
    patience: int = 0  # evaluations without a better one before stopping; 0: run to the end, keep the last weights
    checkpoint_every: int = 0  # steps between checkpoints, from which a killed run resumes; 0: none

    def __post_init__(self) -> None:
        if self.loss_on not in LOSS_ON:
            raise ValueError(f"loss_on {self.loss_on!r} is not known; choose one of {', '.join(LOSS_ON)}")
        if self.micro_batch_size and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}; "
                "choose a divisor of it"
            )
        if self.patience and not self.eval_every:
            raise ValueError(f"patience is {self.patience} but eval_every is 0; early stopping needs evaluations")
        if self.patience and self.checkpoint_every % self.eval_every:
            raise ValueError("with early stopping checkpoint_every must be a multiple of eval_every, or 0")
        if self.freeze_layers < 0 or (self.freeze_layers and self.lora.r):
            raise ValueError(
                f"freeze_layers is {self.freeze_layers} with lora.r {self.lora.r}; it must be at least 0, and 0 "
                "with LoRA, which freezes everything but its adapters"
            )
        if self.load_in_4bit and not self.lora.r:
            raise ValueError("load_in_4bit needs lora.r above 0; 4-bit weights cannot be trained themselves")

    def micro_batch_rows(self, processes: int) -> int:
        """Solutions at once on one of N processes.

        Raises:
            ValueError: the global batch cannot be divided among them.
        """
        micro = self.micro_batch_size or self.batch_size // processes
        if not micro or self.batch_size % (micro * processes):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into micro-batches of {micro} on {processes} processes; "
                f"make it a multiple of {max(micro, 1) * processes}"
            )
        return micro
