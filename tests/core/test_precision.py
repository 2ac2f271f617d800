"""Frozen weights in bfloat16: trained ones are not touched, nothing is lost on saving, updates are equal."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from reward_models.adapters import fingerprint, read_adapter
from reward_models.arguments import training_arguments
from reward_models.bf16 import _warn_slow, in_bf16
from reward_models.lora import with_lora
from reward_models.precision import frozen_as_read, restore_frozen, store_frozen_in_bf16
from reward_models.settings import LoraSettings
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama, save_policy
from rlhf_e2h.training.precision import sampling_dtype, stored_dtype, training_dtype

LORA = LoraSettings(r=4)
IDS = torch.randint(3, 100, (4, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["stored_in_float32", "stored_in_bfloat16"])
def folder(request, tmp_path):
    model, tokenizer = new_llama(ModelShape(hidden=32, layers=2, intermediate=48, heads=2), "procedural", seed=0)
    save_policy(model.to(request.param), tokenizer, tmp_path / "base")
    return tmp_path / "base"


def adapted(folder):
    model, tokenizer = load_policy(folder)
    torch.manual_seed(1)
    model = with_lora(model, LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model, tokenizer


def test_only_what_is_trained_stays_float32_and_all_comes_back(folder):
    model, _ = adapted(folder)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    store_frozen_in_bf16(model)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16), name
        assert parameter.requires_grad == ("lora_" in name)
    restore_frozen(model)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32 and torch.equal(parameter, before[name]), name


def test_a_saved_model_has_the_precision_of_its_base_and_its_adapter_still_fits_it(folder, tmp_path):
    model, tokenizer = adapted(folder)
    save_policy(adapted(folder)[0], tokenizer, tmp_path / "plain")
    store_frozen_in_bf16(model)
    save_policy(model, tokenizer, tmp_path / "held")
    plain, held = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "held"))
    stored = stored_dtype(folder)
    assert stored_dtype(tmp_path / "held") == stored_dtype(tmp_path / "plain") == stored
    for name, weight in plain.items():
        expected = weight.to(torch.bfloat16) if stored == "bfloat16" else weight
        assert torch.equal(held[name], expected), name
    assert read_adapter(tmp_path / "held").fingerprint == fingerprint(load_policy(folder)[0])


def test_what_deepspeed_rounds_and_does_not_train_is_read_again(folder, caplog):
    model, _ = adapted(folder)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    read = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.to(torch.bfloat16)
    named = dict(model.named_parameters())
    found = frozen_as_read(model, named.values())
    if stored_dtype(folder) == "bfloat16":  # its rounding is exact
        assert found == {}
        return
    assert frozen and set(found) == {id(named[name]) for name in frozen}
    assert all(torch.equal(found[id(named[name])], read[name]) for name in frozen)
    assert set(frozen_as_read(model, [named[name] for name in sorted(frozen)[:2]])) == {
        id(named[name]) for name in sorted(frozen)[:2]
    }
    shutil.rmtree(folder)
    assert frozen_as_read(model, named.values()) == {} and "base cannot be read" in caplog.text


def gradients(model):
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_an_update_is_the_same_within_bfloat16_and_with_linear_layers_alone_exactly(folder):
    results = []
    for options in (None, {"linear_only": True}, {"always_autocast": True}, {}):
        model, _ = adapted(folder)
        if options is not None:
            store_frozen_in_bf16(model, **options)
        results.append(gradients(model))
    (loss, grads), (linear_loss, linear_grads), *whole = results
    assert loss == linear_loss and all(torch.equal(grads[name], linear_grads[name]) for name in grads)
    for whole_loss, whole_grads in whole:
        assert whole_loss == pytest.approx(loss, abs=2e-2)
        ours, theirs = (torch.cat([g[name].flatten() for name in grads]) for g in (whole_grads, grads))
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.995


def test_precision_of_sampling_follows_the_machine_and_the_checkpoint(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stored = str(AutoConfig.from_pretrained(folder).dtype).removeprefix("torch.")
    monkeypatch.setattr("reward_models.bf16.cpu_computes_bf16", lambda: True)
    assert sampling_dtype(folder) == stored == stored_dtype(folder)
    adapters = TrainingSettings(bf16=True, lora=LORA)
    assert training_dtype(folder, adapters) == stored
    for other in (TrainingSettings(lora=LORA), TrainingSettings(bf16=True)):
        assert training_dtype(folder, other) == "float32"
    monkeypatch.setattr("reward_models.bf16.cpu_computes_bf16", lambda: False)
    assert sampling_dtype(folder) == "float32"
    context = folder.parent / "icl"
    context.mkdir()
    (context / "in_context.json").write_text(json.dumps({"model": str(folder), "prefix": "", "format": "sections"}))
    assert stored_dtype(context) == stored
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert training_dtype(folder, adapters) == "float32"


@pytest.mark.parametrize("has_it", [True, False])
def test_auto_computes_in_bfloat16_where_the_processor_does(folder, monkeypatch, caplog, has_it):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr("reward_models.bf16.cpu_computes_bf16", lambda: has_it)
    _warn_slow.cache_clear()
    assert in_bf16("auto") is has_it and in_bf16(False) is False and not caplog.text
    auto = TrainingSettings(bf16="auto", lora=LORA)
    assert training_dtype(folder, auto) == (stored_dtype(folder) if has_it else "float32")
    arguments = training_arguments(auto, folder.parent / "trainer", 0)
    assert arguments.bf16 is has_it
    # asked for, it is done, and told once where it is slow
    assert in_bf16(True) is True and in_bf16(True) is True
    assert caplog.text.count("use bf16=auto or bf16=false") == (not has_it)


@pytest.mark.parametrize("bf16", [True, False])
def test_the_loss_of_labels_alone_is_trls(folder, tmp_path, bf16):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from rlhf_e2h.training.sft_loss import sft_trainer

    rows = [
        {"input_ids": IDS[row, : 10 + 3 * row].tolist(), "completion_mask": [0] * 5 + [1] * (5 + 3 * row)}
        for row in range(4)
    ]
    found = []
    kinds = (sft_trainer(), SFTTrainer)
    assert kinds[0] is not SFTTrainer
    for kind in kinds:
        model, tokenizer = adapted(folder)
        arguments = SFTConfig(
            output_dir=str(tmp_path / kind.__name__), bf16=bf16, completion_only_loss=True, report_to="none",
            per_device_train_batch_size=4, use_cpu=True, max_length=64, disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = kind(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.training_step(trainer.model, batch, num_items_in_batch=torch.tensor(40))
        grads = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        found.append((loss.item(), grads))
    (ours, our_grads), (theirs, their_grads) = found
    if not bf16:
        assert ours == pytest.approx(theirs, rel=1e-6)
        torch.testing.assert_close(our_grads, their_grads, rtol=1e-4, atol=1e-7)
        return
    assert ours == pytest.approx(theirs, rel=1e-2)
    assert torch.nn.functional.cosine_similarity(our_grads, their_grads, dim=0) > 0.995
    assert our_grads.norm().item() == pytest.approx(their_grads.norm().item(), rel=2e-2)
