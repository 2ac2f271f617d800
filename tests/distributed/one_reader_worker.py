"""Opens the models of PPO on each of two ranks, shards them, and says what a rank held before and has in all after."""

import hashlib
import json
import sys
from pathlib import Path

import torch

from reward_models.lora import with_lora
from reward_models.one_reader import one_rank_reads
from reward_models.settings import LoraSettings
from rlhf_e2h.parallel.gathering import start_accelerator
from rlhf_e2h.parallel.processes import leave
from rlhf_e2h.parallel.sharding import configure, divide, prepare_reference, prepare_training, whole_weights
from rlhf_e2h.rl.actor_critic import ActorCritic
from rlhf_e2h.rl.value_model import train_parts, value_from_reward_model
from rlhf_e2h.training.models import open_policy


def held(model) -> int:
    """Bytes of parameters that have values."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if not p.is_meta)


def digests(model) -> dict[str, str]:
    """By name, of parameters and buffers."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]
    return {name: digest(value) for name, value in named}


def digest(value) -> str:
    value = value.full_tensor() if hasattr(value, "full_tensor") else value
    return hashlib.sha256(value.detach().clone().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def main(base: Path, reward: Path, out: Path) -> None:
    accelerator = start_accelerator()
    rank = accelerator.process_index
    torch.manual_seed(rank)  # adapters are random, and those of rank 0 are the ones
    with one_rank_reads():
        policy, reference = open_policy(base), open_policy(base).model
        value = value_from_reward_model(reward, policy.tokenizer, False)
    module = ActorCritic(with_lora(policy.model, LoraSettings(2)), train_parts(value, False, LoraSettings()))
    found = {"held": held(module) + held(reference), "ends": policy.model.generation_config.eos_token_id}
    if accelerator.is_main_process:
        found["before"] = digests(module) | {f"reference.{name}": value for name, value in digests(reference).items()}
    configure(accelerator, 1, 1, 1.0)
    divide(module, accelerator)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    prepare_training(module, torch.optim.AdamW(trained), accelerator)
    prepared = prepare_reference(reference, accelerator)
    with whole_weights(module, accelerator):
        found["after"] = digests(module)
    with whole_weights(prepared, accelerator):
        found["after"] |= {f"reference.{name}": value for name, value in digests(reference).items()}
    model = policy.model
    found["tied"] = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    (out / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
    leave(0)
