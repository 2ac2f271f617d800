"""The phases of a stage: what is in memory at the same time, each one a pure function of shapes.

A phase has the bytes of one GPU by what they hold, and those of the CPU memory that one process needs for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf_e2h.tools.plan.activations import cache_bytes, draw_bytes, kept, logit_bytes, transient_bytes
from rlhf_e2h.tools.plan.memory import Form, Parts, Trained, offloaded, state
from rlhf_e2h.training.architecture import Architecture


@dataclass(frozen=True)
class Phase:
    """What one process holds at a time."""

    name: str
    parts: Parts
    host: Parts = field(default_factory=dict)  # in CPU memory, of rank 0
    others: Parts | None = None  # the same of each other rank; None: as of rank 0

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def host_of(self, ranks: int) -> float:
        """Bytes of CPU memory that `ranks` ranks need together."""
        return sum(self.host.values()) + (ranks - 1) * sum((self.host if self.others is None else self.others).values())


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
    read_by_all: tuple[str, ...] = ()  # `weights` or `reference`, where every rank reads them though they are sharded
    chunked: bool = False  # logits in chunks: the output layer's gradient, and what a chunk adds, beside activations


@dataclass(frozen=True)
class Decoding:
    """Completions that our loop decodes together."""

    rows: int
    prompts: int  # that they belong to; a prompt is read once for its samples
    prompt: int  # tokens
    completion: int
    size: float = 2.0  # bytes a number of keys, values and logits


def deciding(phases: Sequence[Phase]) -> Phase:
    """The phase with the highest sum."""
    return max(phases, key=lambda phase: phase.total)


def held(update: Update, form: Form) -> Parts:
    """What a training stage holds all the time; ZeRO-3 keeps the buffer of its gradients."""
    parts = {**state(update.models, form, update.bf16), **update.frozen}
    passing = ("bf16 copies",) if form.zero == 3 else ("bf16 copies", "gradients")
    return {name: size for name, size in parts.items() if name not in passing}


def load(update: Update, form: Form) -> Phase:
    """Models as they are read, full and float32 in CPU memory, then where they are trained.

    Where weights are sharded rank 0 reads them for all; models that only score are read by each rank.
    """
    weights = state(update.models, form, update.bf16)["weights"]
    whole: Parts = {"weights": 4.0 * sum(m.weights for m in update.models), **update.frozen}
    others = None
    if form.divides_weights:
        if "reference" in whole:
            whole["reference"] *= form.processes
        sent = {"weights", "reference"}.difference(update.read_by_all)
        others = {name: size for name, size in whole.items() if name not in sent}
    return Phase("load", {"weights": weights, **update.frozen}, whole, others)


def forward_and_backward(update: Update, form: Form) -> Phase:
    """The worse of two moments: before the first gradient, where activations are at their highest, and after the last.

    With several micro-batches gradients of earlier ones are there in both.
    """
    begins, ends = _moments(update, form)
    return Phase("forward and backward", max(begins, ends, key=lambda parts: sum(parts.values())))


def _moments(update: Update, form: Form) -> tuple[Parts, Parts]:
    there = {**state(update.models, form, update.bf16), **update.frozen}
    tokens = update.rows * update.length
    activations = sum(kept(m, tokens, update.bf16, update.checkpointing) for m in update.models)
    vocabulary = max(m.model.vocabulary for m in update.models)
    begins = {
        **there,
        "activations": activations,
        "logits": float(update.logits * update.logit_tokens * vocabulary),
    }
    if update.accumulation == 1 and form.zero < 2:
        begins["gradients"] = 0.0
    if update.chunked:
        begins["head gradient"] = sum(2.0 * m.head_gradient for m in update.models)
    layers = max(m.model.layers for m in update.models)
    return begins, {**there, "activations": activations / max(layers, 1)}


def optimiser_step(update: Update, form: Form) -> Phase:
    """All gradients and moments; the fused optimiser needs nothing else, DeepSpeed its gradients in float32."""
    parts = {**state(update.models, form, update.bf16), **update.frozen}
    parts.pop("bf16 copies", None)
    if form.halves(update.bf16) and not form.offload_optimizer:
        parts["float32 gradients"] = 4.0 * sum(m.trained for m in update.models) / form.processes
    return Phase("optimiser step", parts, offloaded(update.models, form, update.bf16))


def checkpoint(update: Update, form: Form, gathered: float = 0.0, moments: bool = True) -> Phase:
    """Saving. The main process collects all in CPU memory; ZeRO-3 puts `gathered` bytes together on each GPU before,
    FSDP one matrix at a time."""
    parts = held(update, form)
    if form.zero == 3:
        parts["gathered weights"] = max(parts.get("gathered weights", 0.0), gathered)
    trained = sum(m.trained for m in update.models)
    host: Parts = {"weights": 4.0 * sum(m.weights for m in update.models)}
    if moments:
        host["optimiser"] = 8.0 * trained
    return Phase("checkpoint", parts, host, {})


def rollout(name: str, model: Architecture, decoding: Decoding, there: Parts, autocast: bool = False) -> Phase:
    """Our decoding loop: keys and values, logits of one token a row, and the first pass over the prompts."""
    bf16 = decoding.size == 2
    cache = cache_bytes(model, decoding.rows, decoding.prompt + decoding.completion, decoding.size)
    parts: Parts = {
        **there,
        "KV cache": cache,
        "logits": float(decoding.rows * model.vocabulary * draw_bytes(bf16)),
        "activations": decoding.rows * transient_bytes(model, bf16, autocast),
    }
    reading: Parts = {
        **there,
        "KV cache": cache_bytes(model, decoding.prompts, decoding.prompt, decoding.size),
        "activations": decoding.prompts * decoding.prompt * transient_bytes(model, bf16, autocast),
    }
    return Phase(name, max(parts, reading, key=lambda found: sum(found.values())))


def vllm_engine(name: str, share: float, memory: float, there: Parts) -> Phase:
    """vLLM in the process takes its share of the GPU at once, for weights and cache, whatever the batch."""
    return Phase(name, {**there, "vLLM engine": share * memory})


def scoring(model: Architecture, tokens: int, there: Parts) -> Phase:
    """A reward model in bf16 reads `tokens` tokens at once.

    Solutions of one problem share its tokens, which are read once; that needs the keys and values of all rows.
    """
    parts: Parts = {
        **there,
        "activations": tokens * transient_bytes(model, True, autocast=False),
        "KV cache": 4.0 * tokens * model.layers * model.keys,
    }
    return Phase("scoring", parts)


def log_probabilities(update: Update, form: Form, rows: int, logits: float) -> Phase:
    """The pass before the updates of PPO: log-probabilities, entropy and values of `rows` rows, without gradients.

    `logits`: tokens whose logits are held at once.
    """
    model = max((m.model for m in update.models), key=lambda m: m.parameters)
    tokens = rows * update.length
    parts = {
        **held(update, form),
        "activations": tokens * transient_bytes(model, update.bf16),
        "logits": logits * model.vocabulary * logit_bytes("entropy", update.bf16),
    }
    return Phase("log-probabilities", parts)


def training(update: Update, form: Form) -> list[Phase]:
    """The phases that every training stage has, `checkpoint` apart."""
    return [load(update, form), forward_and_backward(update, form), optimiser_step(update, form)]
