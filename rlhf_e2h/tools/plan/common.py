"""What the plans of all stages share: the model behind a reference, micro-batches, phases of a trainer or a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from reward_models.settings import AT_ONCE
from rlhf_e2h.runner.recipe import Recipe, StageSpec
from rlhf_e2h.tools.plan import data
from rlhf_e2h.tools.plan.activations import LOGITS_TILE, logit_bytes
from rlhf_e2h.tools.plan.data import Numbers
from rlhf_e2h.tools.plan.memory import SCORING, Form, Trained
from rlhf_e2h.tools.plan.phases import Decoding, Phase, Update, checkpoint, rollout, training, vllm_engine
from rlhf_e2h.training.architecture import Architecture, model_of
from rlhf_e2h.training.flops import forward_flops

Phases = list[Phase]


@dataclass
class StagePlan:
    """One stage: tokens and floating-point operations in all, and memory of a process by phase and part.

    `phases` is asked for a parallelism strategy and the bytes of a GPU, of which vLLM takes a share.
    """

    name: str
    kind: str
    model: str  # the largest in it
    tokens: float = 0.0
    flops: float = 0.0
    phases: Callable[[Form, float], Phases] = lambda form, memory: []
    trains: bool = False  # started on many processes by `--launch`
    assumed: list[str] = field(default_factory=list)


def lora_origin(recipe: Recipe, reference: str) -> tuple[str, int]:
    """(what an sft or reward stage trained with LoRA, its rank); any other model is its own origin, with rank 0."""
    spec = recipe.stages[reference[1:].split("/")[0]] if reference.startswith("@") else None
    if spec and spec.kind in ("sft", "reward") and spec.config.training.lora.r:
        return spec.config.policy if spec.kind == "sft" else spec.config.base, spec.config.training.lora.r
    return reference, 0


def micro_batches(batch: int, micro: int | None, processes: int) -> tuple[int, int]:
    """(rows at once, micro-batches) of one process."""
    share = max(1, batch // processes)
    rows = min(micro or AT_ONCE, share)
    return rows, max(1, share // rows)


def trained_rows(settings: Any, examples: float) -> float:
    if getattr(settings, "max_steps", -1) > 0:
        return settings.max_steps * settings.batch_size
    return examples * settings.num_train_epochs


def trained_model(model: Architecture, settings: Any, scorer: bool = False) -> Trained:
    """A model in training under the `lora` and freezing settings of its stage."""
    adapters = model.lora_parameters(settings.lora.r) if settings.lora.r else 0
    frozen = {name: getattr(settings, name) and not adapters for name in ("freeze_embeddings", "freeze_norms")}
    return Trained(model, scorer, adapters, **frozen, four_bit=getattr(settings, "load_in_4bit", False))


def trainer_phases(
    settings: Any, trained: Trained, frozen: dict[str, int], copies: int, form: Form, memory: float = 0.0
) -> Phases:
    """Supervised trainers. `copies`: rows that one example makes (DPO: chosen and rejected)."""
    rows, count = micro_batches(settings.batch_size, settings.per_device_train_batch_size, form.processes)
    tokens = copies * rows * settings.max_length
    share = form.processes if form.divides_weights else 1
    update = Update(
        (trained,),
        copies * rows,
        settings.max_length,
        count,
        settings.bf16,
        settings.gradient_checkpointing,
        logit_bytes("none" if trained.scorer else "fused", settings.bf16),
        min(tokens, LOGITS_TILE),
        {name: 4.0 * size / share for name, size in frozen.items()},
    )
    kept = getattr(settings, "save_steps", 0) > 0
    return [*training(update, form), checkpoint(update, form, moments=kept)]


def sampling_phase(name: str, model: Architecture, decode: Any, count: float, numbers: Numbers, memory: float) -> Phase:
    """A stage that only samples, with our loop or vLLM, at most `count` completions; weights are bf16."""
    if decode.engine.name == "vllm" and decode.engine.url is None:  # beside the policy, which hands over its weights
        return vllm_engine(name, decode.engine.memory_share, memory, {"weights": SCORING * model.parameters})
    if decode.engine.name == "vllm":
        return Phase(name, {"weights": SCORING * model.parameters})
    at_once = min(decode.n, decode.batch_size)
    prompts = max(1, decode.batch_size // decode.n)
    rows = min(prompts * at_once, max(1, int(count)))
    decoding = Decoding(rows, min(prompts, rows), numbers.prompt, decode.max_new_tokens)
    return rollout(name, model, decoding, {"weights": SCORING * model.parameters})


def sample_count(recipe: Recipe, spec: StageSpec, numbers: Numbers) -> int:
    config = spec.config
    found = data.problems(recipe, config.data, config.split, config.levels, config.limit, numbers)
    return found * config.decoding.n


def scored_by(recipe: Recipe, reference: str | None, tokens: float, length: float) -> tuple[int, float]:
    """(weights, operations) of a reward model that reads `tokens` tokens."""
    if not reference:
        return 0, 0.0
    model = model_of(recipe, reference)
    return model.scorer_parameters, forward_flops(model, tokens, length, 0)
