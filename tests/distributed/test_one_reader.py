"""One rank reads: what the others hold until then, and that all have the values of rank 0 afterwards."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launching import SHAPE, finish
from one_reader_worker import digests, held
from peft import LoraConfig, get_peft_model
from test_ppo_processes import start

from reward_models.contract import StepContract
from reward_models.heads import build
from reward_models.model import load_model, new_model
from reward_models.one_reader import one_rank_reads, reads, ready, sharding
from rlhf_e2h.rl.value_model import value_from_policy, value_from_reward_model
from rlhf_e2h.training.models import load_policy, new_llama, open_policy, policy_tokenizer, save_policy

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO3 = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}
WORKER = Path(__file__).parent / "one_reader_worker.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`base`, an `adapter` of it alone, and reward models with both heads."""
    folder = tmp_path_factory.mktemp("one_reader")
    save_policy(*new_llama(SHAPE, "byte", 0), folder / "base")
    model, tokenizer = load_policy(folder / "base")
    model.resize_token_embeddings(len(tokenizer) + 3)
    get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")).save_pretrained(
        folder / "adapter", save_embedding_layers=True
    )
    linear = new_model(folder / "base", StepContract("prm"))
    torch.nn.init.normal_(linear.score.weight, generator=torch.Generator().manual_seed(1))
    contract, config = StepContract("prm", head="mlp"), copy.deepcopy(linear.config)
    contract.write_to(config)
    mlp, _ = build(config, contract, {})
    for name, reward in (("linear", linear), ("mlp", mlp)):
        reward.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def as_rank(monkeypatch, rank, launch=FSDP):
    for name, value in {**launch, "WORLD_SIZE": "2", "RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)


def tokenizer_of(place):
    return policy_tokenizer(place / "base")


OPENED = {
    "policy": lambda place: load_policy(place / "base")[0],
    "adapter alone": lambda place: load_policy(place / "adapter")[0],
    "value from policy": lambda place: value_from_policy(place / "base"),
    "value from reward": lambda place: value_from_reward_model(place / "linear", tokenizer_of(place), False),
    "zero head": lambda place: value_from_reward_model(place / "linear", tokenizer_of(place), True),
    "mlp head": lambda place: value_from_reward_model(place / "mlp", tokenizer_of(place), False),
    "new reward model": lambda place: new_model(place / "base", StepContract("prm")),
}


@pytest.mark.parametrize("kind", OPENED)
def test_a_rank_that_does_not_read_has_the_same_parameters_without_values(place, monkeypatch, kind):
    whole = OPENED[kind](place)
    as_rank(monkeypatch, 1)
    with one_rank_reads():
        empty = OPENED[kind](place)

    def described(model):
        named = model.named_parameters(remove_duplicate=False)
        return {name: (p.shape, p.dtype, p.requires_grad) for name, p in named}

    assert held(empty) == 0 < held(whole)
    assert described(empty) == described(whole)
    assert type(empty) is type(whole) and empty.training == whole.training
    assert str(empty.config.name_or_path) == str(whole.config.name_or_path)
    assert [name for name, _ in empty.named_buffers()] == [name for name, _ in whole.named_buffers()]


def test_only_models_that_will_be_sharded_are_read_by_one_rank(place, monkeypatch):
    """Scorers and samplers beside them, other parallelism strategies and rank 0 read as before."""
    as_rank(monkeypatch, 1)
    assert held(open_policy(place / "base").model) > 0
    assert held(load_model(place / "linear", "cpu")[0]) > 0
    for launch, kind in ((FSDP, "fsdp"), (ZERO3, "zero3"), ({}, ""), ({**FSDP, "FSDP_VERSION": "1"}, "")):
        with monkeypatch.context() as patch:
            patch.delenv("ACCELERATE_USE_FSDP")
            as_rank(patch, 1, launch)
            with one_rank_reads():
                assert (sharding(), reads()) == (kind, not kind)
    for name, value in (
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme"),
    ):
        with monkeypatch.context() as patch:
            patch.delenv("ACCELERATE_USE_FSDP")
            as_rank(patch, 1, {**ZERO3, name: value})
            assert sharding() == ""
    as_rank(monkeypatch, 0)
    with one_rank_reads():
        assert held(open_policy(place / "base").model) > 0
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert sharding() == ""


def test_parameters_without_values_get_an_address_each_for_accelerate(place, monkeypatch):
    """It knows what an optimiser trains by address. All on `meta` have 0: every update would go to one parameter."""
    as_rank(monkeypatch, 1)
    with one_rank_reads():
        model = open_policy(place / "base").model
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert {parameter.data_ptr() for parameter in model.parameters()} == {0}
    monkeypatch.setattr(torch.distributed, "broadcast", lambda *_: None)
    plugin = SimpleNamespace(cpu_ram_efficient_loading=False)
    accelerator = SimpleNamespace(device=torch.device("cpu"), state=SimpleNamespace(fsdp_plugin=plugin))
    ready(SimpleNamespace(model=model, accelerator=accelerator))
    assert plugin.cpu_ram_efficient_loading
    assert len({parameter.data_ptr() for parameter in model.parameters()}) == len(shapes) == 20
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    assert all(parameter.untyped_storage().nbytes() == 4 for parameter in model.parameters())
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("name", ["fsdp", "zero3"])
def test_both_ranks_end_with_what_one_process_reads(place, tmp_path, name):
    """Policy with random adapters, value model and reference, tied embeddings and buffers, bit for bit."""
    if name == "zero3":
        pytest.importorskip("deepspeed")
    launcher = start(name, tmp_path, 0, place / "base", place / "linear", tmp_path, worker=WORKER)
    finish(launcher, logs=[tmp_path / "errors.log"])
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    value = value_from_reward_model(place / "linear", tokenizer_of(place), False)
    policy = open_policy(place / "base").model
    assert second["held"] == 0
    assert first["held"] >= 2 * held(policy) + held(value)
    assert first["after"] == second["after"] == first["before"]
    read = digests(policy)
    assert read.items() <= {k.removeprefix("reference."): v for k, v in second["after"].items()}.items()
    assert {f"value_model.{k}": v for k, v in digests(value).items()}.items() <= second["after"].items()
    assert any("lora_A" in key for key in second["after"])
    assert first["tied"] and second["tied"] and first["ends"] == second["ends"]
