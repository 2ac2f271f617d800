"""Weights, gradients and optimiser of one process under a parallelism strategy. Pure arithmetic on bytes.

What is trained is float32, with float32 gradients and Adam's two moments (`bf16` is autocast; DeepSpeed in bf16 holds
bf16 weights and gradients and a float32 copy of its shard). What comes and goes is in `activations`, what is there at
the same time in `phases`.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_e2h.training.architecture import Architecture

Parts = dict[str, float]  # bytes by what they hold
# elements, at most, of DeepSpeed's gradient bucket and of the weights that ZeRO-3 keeps gathered; `size_buckets` of
# processes.py makes them an eighth of a smaller model
REDUCE_BUCKET, LIVE_WEIGHTS = 500_000_000, 1_000_000_000
NF4 = 0.5 + 4 / 64  # bytes a weight of QLoRA: 4 bits, and a float32 scale for 64 of them
SCORING = 2.0  # bytes a weight of models that only sample or score: bf16, on a GPU


@dataclass(frozen=True)
class Form:
    """How a launch file shards a model among processes."""

    name: str
    processes: int = 1
    kind: str = "single"  # single, ddp, deepspeed, fsdp
    zero: int = 0  # DeepSpeed stage
    offload_optimizer: bool = False
    offload_weights: bool = False

    @property
    def divides_weights(self) -> bool:
        return self.zero == 3 or self.kind == "fsdp"

    def halves(self, bf16: bool) -> bool:
        """Whether weights and gradients are bf16; elsewhere `bf16` is autocast."""
        return bf16 and self.kind == "deepspeed"


@dataclass(frozen=True)
class Trained:
    """A model in training."""

    model: Architecture
    scorer: bool = False  # a token classifier: no logits over the vocabulary
    adapters: int = 0  # trained LoRA weights; 0: all weights are trained
    head_only: bool = False  # nothing is kept for the backward pass of the trunk
    shares_base: bool = False  # its trunk is that of another model of the stage
    freeze_embeddings: bool = False
    freeze_norms: bool = False
    keeps_float32: bool = False  # the base of adapters is float32 in bf16 training too (TRL's GRPO)
    four_bit: bool = False  # the layers of the base of adapters are in 4 bits

    @property
    def weights(self) -> int:
        whole = self.model.scorer_parameters if self.scorer else self.model.parameters
        return self.adapters + (self.model.hidden if self.shares_base else whole)

    @property
    def trained(self) -> int:
        model = self.model
        if self.head_only:
            return model.hidden + 1
        if self.adapters:
            return self.adapters + (model.hidden if self.scorer else 0)
        embeddings = model.vocabulary * model.hidden * (1 if model.tied or self.scorer else 2)
        norms = model.hidden * (2 * model.layers + 1)
        return self.weights - embeddings * self.freeze_embeddings - norms * self.freeze_norms

    @property
    def frozen(self) -> int:
        return self.weights - self.trained

    @property
    def head_gradient(self) -> int:
        """Bytes of the float32 gradient of an output layer over the vocabulary, where that is trained."""
        if self.scorer or self.adapters or self.freeze_embeddings:
            return 0
        return 4 * self.model.vocabulary * self.model.hidden

    @property
    def matrices(self) -> int:
        """Weights that a backward pass multiplies with: all but input embeddings and norms."""
        model = self.model
        if self.head_only:
            return self.trained
        trunk = 0 if self.shares_base else model.layers * model.layer_parameters
        return self.adapters + trunk + model.hidden * (1 if self.scorer else model.vocabulary)


def frozen_bytes(trained: Trained, form: Form, bf16: bool) -> float:
    """Bytes of a weight that is not trained: below adapters bf16 in bf16 training, but for FSDP; the mean in 4 bits."""
    if trained.four_bit:
        layers = trained.model.layers * trained.model.layer_parameters / trained.model.parameters
        return layers * NF4 + (1 - layers) * (2.0 if bf16 and not trained.keeps_float32 else 4.0)
    adapted = trained.adapters > 0 and not trained.keeps_float32 and form.kind in ("single", "ddp")
    return 2.0 if form.halves(bf16) or (bf16 and adapted) else 4.0


def reference_bytes(model: Architecture, form: Form, bf16: bool) -> float:
    """A whole frozen reference: in bf16 training its linear layers are bf16, unless they are an embedding too."""
    if form.halves(bf16):
        return 2.0 * model.parameters
    head = 0 if model.tied else model.vocabulary * model.hidden
    linear = model.layers * model.layer_parameters + head
    return 4.0 * model.parameters - (2.0 * linear if bf16 and form.kind in ("single", "ddp") else 0.0)


def state(models: tuple[Trained, ...], form: Form, bf16: bool) -> Parts:
    """Weights, gradients and optimiser of the trained models on one process."""
    trained, frozen = sum(m.trained for m in models), sum(m.frozen * frozen_bytes(m, form, bf16) for m in models)
    n, whole = form.processes, sum(m.weights for m in models)
    largest = max(whole / 8, *(float(m.model.vocabulary * m.model.hidden) for m in models))
    w, g = (2, 2) if form.halves(bf16) else (4, 4)
    parts: Parts = {
        "weights": (w * trained + frozen) / (n if form.divides_weights else 1),
        "gradients": g * trained / (n if form.zero >= 2 or form.kind == "fsdp" else 1),
        "optimiser": 8 * trained / (n if form.zero or form.kind == "fsdp" else 1),
    }
    if form.kind == "ddp":
        parts["buckets"] = g * trained  # DDP copies gradients into its buckets
    if form.kind == "deepspeed":
        parts["optimiser"] += 4 * trained / n  # its own float32 copy of the shard that it updates
        parts["buckets"] = g * min(REDUCE_BUCKET, largest, trained)
    if form.zero == 3:
        parts["gathered weights"] = w * min(LIVE_WEIGHTS, largest)
    if form.kind == "fsdp":
        parts["gathered weights"] = w * 2 * max(m.model.layer_parameters for m in models)
    if bf16 and not form.halves(bf16):
        # autocast casts float32 matrices, and keeps the copies until the backward pass is over
        cast = sum(m.trained if m.four_bit or frozen_bytes(m, form, bf16) == 2 else m.matrices for m in models)
        parts["bf16 copies"] = 2.0 * cast / (n if form.divides_weights else 1)
    if form.offload_optimizer:
        parts["optimiser"] = 0.0
        parts["gradients"] = 0.0
    if form.offload_weights:
        parts["weights"] = 0.0
    return parts


def offloaded(models: tuple[Trained, ...], form: Form, bf16: bool) -> Parts:
    """What a process keeps in CPU memory in the place of its GPU: float32 states, and the gradients it adds to."""
    trained, whole, n = sum(m.trained for m in models), sum(m.weights for m in models), form.processes
    parts: Parts = {}
    if form.offload_optimizer:
        parts["optimiser"] = 12.0 * trained / n
        parts["gradients"] = 4.0 * trained / n
    if form.offload_weights:
        parts["weights"] = (2.0 if form.halves(bf16) else 4.0) * whole / n
    return parts
