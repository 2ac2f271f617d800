"""DeepSpeed's float32 weights of a model that it trains in bf16.

The model itself holds their bf16 rounding. A step of learning rate 1e-6 changes most weights by less than that can
show, so what is saved or resumed from the model's own weights has lost most of what was learnt.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from reward_models.precision import frozen_as_read


def master_weights(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """The float32 weights of what is trained, by parameter name, on the CPU if `keep`; else nothing.

    Every process must call it: each holds a shard.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            full = safe_get_full_fp32_param(parameter)
            if keep and full is not None:
                found[name] = full.detach().float().cpu().clone()
    return found


def with_master_weights(tensors: Mapping[str, Tensor], model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """`tensors` of `model`, named as in its `state_dict`, with float32 weights in place of their bf16 rounding.

    What is not trained is as it was read. A weight that stands under two names, as tied embeddings do, is replaced
    under both. Every process must call it.
    """
    masters = master_weights(model, keep)
    if not keep:
        return {}
    by_identity = {id(parameter): masters[name] for name, parameter in model.named_parameters() if name in masters}
    named = model.state_dict(keep_vars=True)
    by_identity |= frozen_as_read(model, [named[name] for name in tensors if name in named])
    return {name: by_identity.get(id(named.get(name)), value) for name, value in tensors.items()}


def set_master_weights(model: nn.Module, saved: Mapping[str, Tensor], rank: int, processes: int) -> None:
    """Put `master_weights` back, exactly; the model must hold their rounding. Every process has read all of them."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    for name, parameter in model.named_parameters():
        if name not in saved:
            continue
        value = saved[name].to(parameter.device)
        if hasattr(parameter, "ds_tensor"):
            safe_set_local_fp32_param(parameter, shard(value, parameter, rank, processes))
        else:
            safe_set_full_fp32_param(parameter, value)


def shard(value: Tensor, parameter: nn.Parameter, rank: int, processes: int) -> Tensor:
    """A rank's part of a weight or moment under ZeRO-3, padded at the end.

    DeepSpeed's own function fails where a weight does not divide by the number of processes.
    """
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    padded = value.new_zeros(size * processes)
    padded[: value.numel()] = value.flatten()
    return padded[rank * size : (rank + 1) * size]
