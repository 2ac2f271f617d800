"""Memory of one process, by part, under a launch form. Pure arithmetic on bytes.

What stays: weights, gradients, Adam's two moments, all float32 (`bf16` is autocast, weights stay float32; DeepSpeed in
bf16 holds bf16 weights and gradients and a float32 copy of its share). What comes and goes: activations kept for the
backward pass, logits, the key-value cache. The peak is the largest of the phases of a stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf_e2h.plan.architecture import Architecture

Parts = dict[str, float]  # bytes by what they hold
# elements, at most, of DeepSpeed's gradient bucket and of the weights that ZeRO-3 keeps gathered; `size_buckets` of
# processes.py makes them an eighth of a smaller model
REDUCE_BUCKET, LIVE_WEIGHTS = 500_000_000, 1_000_000_000
SCORING = 2.0  # bytes a weight of models that only sample or score: bf16, on a GPU
LOGITS_TILE = 1024  # tokens whose logits TRL's fused head holds at once


@dataclass(frozen=True)
class Form:
    """How a launch file divides a model among processes."""

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

    @property
    def weights(self) -> int:
        whole = self.model.scorer_parameters if self.scorer else self.model.parameters
        return self.adapters + (self.model.hidden if self.shares_base else whole)

    @property
    def trained(self) -> int:
        if self.head_only:
            return self.model.hidden + 1
        extra = self.model.hidden if self.scorer else 0
        return self.adapters + extra if self.adapters else self.weights


@dataclass(frozen=True)
class Update:
    """A micro-batch of a training stage, and what is held beside it."""

    models: tuple[Trained, ...]
    rows: int  # of a micro-batch
    length: int  # tokens of a row, padding included
    accumulation: int = 1  # micro-batches an optimiser step
    bf16: bool = False
    checkpointing: bool = False
    logits: int = 0  # bytes of logits and their gradients a kept token and vocabulary entry, see `logit_bytes`
    logit_tokens: int = 0  # tokens of a micro-batch whose logits are held
    frozen: Parts = field(default_factory=dict)  # reference, reward models: bytes of weights


def layer_bytes(model: Architecture, bf16: bool, adapters: bool = False) -> float:
    """Kept for the backward pass of one layer, a token.

    Of each norm its input, the normalised value and the product with the weight; queries, keys, values and result of
    fused attention; gate, its activation, up and their product. Under autocast norms are float32 and the rest is bf16,
    and each of the five matrices behind the norms casts its input anew. Frozen norms (adapters) do not keep the
    normalised value.
    """
    half = 2 if bf16 else 4
    norms = model.hidden * (8 + (0 if adapters else 8) + (5 * 2 if bf16 else 2 * 4))
    attention = half * 2 * (model.queries + model.keys)
    return norms + attention + half * 4 * model.intermediate


def transient_bytes(model: Architecture, bf16: bool) -> float:
    """Alive inside one layer without a backward pass, a token."""
    return 4 * 3 * model.hidden + (2 if bf16 else 4) * 3 * model.intermediate


def activations(trained: Trained, tokens: int, bf16: bool, checkpointing: bool) -> float:
    """Kept for the backward pass of `tokens` tokens."""
    model = trained.model
    if trained.head_only:
        return tokens * (transient_bytes(model, bf16) + 4 * model.hidden)
    one = layer_bytes(model, bf16, trained.adapters > 0)
    ends = 4 * 3 * model.hidden  # the last norm, and the residual it reads
    if checkpointing:
        return tokens * (model.layers * 4 * model.hidden + one + transient_bytes(model, bf16) + ends)
    return tokens * (model.layers * one + ends)


def state(models: tuple[Trained, ...], form: Form, bf16: bool) -> Parts:
    """Weights, gradients and optimiser of the trained models on one process."""
    weights, trained = sum(m.weights for m in models), sum(m.trained for m in models)
    n = form.processes
    share = max(weights / 8, *(float(m.model.vocabulary * m.model.hidden) for m in models))
    w, g = (2, 2) if form.halves(bf16) else (4, 4)
    parts: Parts = {
        "weights": w * weights / (n if form.divides_weights else 1),
        "gradients": g * trained / (n if form.zero >= 2 or form.kind == "fsdp" else 1),
        "optimiser": 8 * trained / (n if form.zero or form.kind == "fsdp" else 1),
    }
    if form.kind == "ddp":
        parts["buckets"] = g * trained  # DDP copies gradients into its buckets
    if form.kind == "deepspeed":
        parts["optimiser"] += 4 * trained / n  # its own float32 copy of the share that it updates
        parts["buckets"] = g * min(REDUCE_BUCKET, share)
    if form.zero == 3:
        parts["gathered weights"] = w * min(LIVE_WEIGHTS, share)
    if form.kind == "fsdp":
        parts["gathered weights"] = w * 2 * max(m.model.layer_parameters for m in models)
    if bf16 and not form.halves(bf16):
        # autocast keeps a bf16 copy of each trained matrix until the backward pass is over
        parts["bf16 copies"] = 2.0 * sum(m.weights for m in models) / (n if form.divides_weights else 1)
    if form.offload_optimizer:
        parts["optimiser"] = 0.0
        parts["gradients"] = 0.0
    if form.offload_weights:
        parts["weights"] = 0.0
    return parts


def logit_bytes(kind: str, bf16: bool) -> int:
    """Bytes for each kept token and vocabulary entry, at the worst moment.

    `ppo`: the model's logits, their float32 quotient by the temperature, and the gradients of both (entropy, computed
    before without gradient, needs no more). `fused`: a tile of logits and its gradient in float32.
    """
    return {"ppo": (2 if bf16 else 4) + 4 + 4 + 4, "fused": 8, "none": 0}[kind]


def update_phases(update: Update, form: Form) -> dict[str, Parts]:
    """Memory by part in the two moments that can be the peak of an update: before the first gradient, and after.

    With several micro-batches gradients of earlier ones are there when activations are at their highest.
    """
    held = {**state(update.models, form, update.bf16), **update.frozen}
    tokens = update.rows * update.length
    kept = sum(activations(m, tokens, update.bf16, update.checkpointing) for m in update.models)
    vocabulary = max(m.model.vocabulary for m in update.models)
    moving = {"activations": kept, "logits": float(update.logits * update.logit_tokens * vocabulary)}
    begins = {**held, **moving}
    if update.accumulation == 1 and form.zero < 2:
        begins["gradients"] = 0.0
    largest = max(update.models, key=lambda m: m.model.layer_parameters)
    ends = {**held, "activations": kept / max(largest.model.layers, 1)}
    return {"backward begins": begins, "backward ends": ends}


def decoding(model: Architecture, rows: int, prompt: int, completion: int, bf16: bool) -> Parts:
    """Key-value cache and logits of `rows` completions decoded together."""
    length = prompt + completion
    cache = rows * length * model.layers * model.keys * (6 if bf16 else 8)
    growing = rows * length * model.keys * 8  # one layer's cache is copied when a token is appended
    # logits, their quotient and log-softmax in float32, cumulative probabilities in float64 and what they are made of
    logits = rows * model.vocabulary * (4 + 4 + 4 + 8 + 8 + 8)
    read = rows * prompt * transient_bytes(model, bf16)
    return {"KV cache": float(cache + growing), "logits": float(logits), "activations": float(read)}


def total(parts: Parts) -> float:
    return sum(parts.values())


def peak(phases: dict[str, Parts]) -> tuple[str, Parts]:
    """The phase with the highest sum."""
    return max(phases.items(), key=lambda item: total(item[1]))
