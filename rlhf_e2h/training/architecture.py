"""What a decoder-only model is made of, in numbers: enough to say what it costs before a weight is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_models.peft_folder import adapter_base, is_adapter
from rlhf_e2h.runner.config import ConfigError

if TYPE_CHECKING:
    from rlhf_e2h.runner.recipe import Recipe


@dataclass(frozen=True)
class Architecture:
    """Sizes of a decoder with gated feed-forward layers (Llama, Qwen, Mistral and their kin)."""

    name: str
    hidden: int
    layers: int
    queries: int  # width of all query heads together
    keys: int  # width of all key heads together; as many values
    intermediate: int
    vocabulary: int
    parameters: int  # of the causal language model, tied ones once
    tied: bool  # input and output embedding are one matrix

    @property
    def head_free(self) -> int:
        """Parameters of the trunk: a token classifier has these and a head of `hidden`."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)

    @property
    def scorer_parameters(self) -> int:
        """Parameters as a reward or value model."""
        return self.head_free + self.hidden + 1

    @property
    def layer_parameters(self) -> int:
        """Weights of the matrices of one decoder layer."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.intermediate)

    def lora_parameters(self, rank: int) -> int:
        """Weights of adapters of this rank on all linear layers but the output embedding."""
        h, q, k, i = self.hidden, self.queries, self.keys, self.intermediate
        return self.layers * rank * (2 * (h + q) + 2 * (h + k) + 3 * (h + i))


# Models that the shipped recipes name, from their config.json, for machines that cannot reach the hub:
# hidden, layers, query heads, key heads, width of a head, intermediate, vocabulary, tied, biases of q, k and v
_KNOWN = {
    "EleutherAI/llemma_7b": (4096, 32, 32, 32, 128, 11008, 32016, False, False),
    "codellama/CodeLlama-7b-hf": (4096, 32, 32, 32, 128, 11008, 32016, False, False),  # Llemma 7B starts from it
    "EleutherAI/llemma_34b": (8192, 48, 64, 8, 128, 22016, 32000, False, False),
    "Qwen/Qwen2.5-Coder-0.5B": (896, 24, 14, 2, 64, 4864, 151936, True, True),
    "Qwen/Qwen2.5-Math-1.5B": (1536, 28, 12, 2, 128, 8960, 151936, True, True),
    "Qwen/Qwen2.5-Math-7B": (3584, 28, 28, 4, 128, 18944, 152064, False, True),
}


def known(name: str) -> Architecture | None:
    """The architecture of a model that a shipped recipe names."""
    base = name.removesuffix("-Instruct")
    if base not in _KNOWN:
        return None
    hidden, layers, heads, key_heads, width, intermediate, vocabulary, tied, biased = _KNOWN[base]
    queries, keys = heads * width, key_heads * width
    layer = hidden * (2 * queries + 2 * keys + 3 * intermediate) + 2 * hidden + (queries + 2 * keys) * biased
    parameters = layers * layer + hidden + vocabulary * hidden * (1 if tied else 2)
    return Architecture(name, hidden, layers, queries, keys, intermediate, vocabulary, parameters, tied)


def of_config(name: str, config: Any) -> Architecture:
    """From a transformers configuration; parameters are counted on the meta device, without memory."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    parameters = sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    key_heads = getattr(config, "num_key_value_heads", None) or heads
    return Architecture(
        name,
        config.hidden_size,
        config.num_hidden_layers,
        heads * width,
        key_heads * width,
        getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        config.vocab_size,
        parameters,
        bool(config.tie_word_embeddings),
    )


def read_architecture(path: str | Path) -> Architecture:
    """From a model folder's config.json, else from what is known of the shipped recipes' models, else from the hub.

    Raises:
        ConfigError: neither a folder nor a known model, and the hub does not answer.
    """
    name = adapter_base(path) if is_adapter(path) else str(path)
    if not Path(name).is_dir() and (found := known(name)):
        return found
    from transformers import AutoConfig

    try:
        return of_config(name, AutoConfig.from_pretrained(name))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"the config.json of {name!r} cannot be read ({reason}); give a model folder, for example base=PATH"
        ) from None


def model_of(recipe: Recipe, reference: str) -> Architecture:
    """The architecture behind a reference: that of the model that its chain of stages starts from."""
    if reference.startswith("@"):
        spec = recipe.stages[reference[1:].split("/")[0]]
        if spec.kind == "pretrain" and not spec.config.start:
            return _new_model(spec.config)
        for name in ("policy", "base", "start"):
            if getattr(spec.config, name, None):
                return model_of(recipe, getattr(spec.config, name))
        raise ConfigError(f"{spec.name}: a {spec.kind} stage gives no model; check who reads '@{spec.name}'")
    if reference.startswith("asset:"):
        from rlhf_e2h.runner.store import ASSETS

        return read_architecture(ASSETS / reference.removeprefix("asset:"))
    return read_architecture(reference)


def _new_model(config: Any) -> Architecture:
    from transformers import LlamaConfig

    from rlhf_e2h.data.tokenizers import BUILDERS

    shape = config.shape
    return of_config(
        "new Llama",
        LlamaConfig(
            vocab_size=len(BUILDERS[config.tokenizer]()),
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            intermediate_size=shape.intermediate,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            tie_word_embeddings=True,
        ),
    )
