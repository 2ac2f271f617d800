"""What people bring as a model: PEFT folders, pad tokens without an embedding, GGUF files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from reward_models.records import Stepwise, read_jsonl
from reward_models.score import Scorer
from reward_models.train import TrainSettings, train
from rlhf_e2h.rl.rollout import generate
from rlhf_e2h.runner.config import ConfigError
from rlhf_e2h.runner.pipeline import run_recipe
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.training.architecture import read_architecture
from rlhf_e2h.training.models import ModelShape, load_policy, new_llama, save_policy

SHAPE = ModelShape(hidden=16, layers=1, intermediate=32, heads=2, max_positions=256)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_policy(*new_llama(SHAPE, "byte", 0), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path) -> Path:
    """A LoRA adapter that changes what the base says, as PEFT saves it; without tokenizer."""
    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(base.parent / "adapter")
    return base.parent / "adapter"


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(8)[None]).logits


def test_a_peft_folder_is_its_base_with_the_adapter(base: Path, adapter: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(base)
    before, expected = logits(plain), logits(PeftModel.from_pretrained(plain, adapter))  # PEFT's own, not merged
    model, tokenizer = load_policy(adapter)
    assert torch.allclose(logits(model), expected, atol=1e-5)
    assert not torch.allclose(expected, before, atol=1e-3)
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()


def test_a_base_that_is_named_relative_to_the_adapter(base: Path, adapter: Path) -> None:
    described = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**described, "base_model_name_or_path": "../base"}))
    load_policy(adapter)
    assert read_architecture(adapter).hidden == SHAPE.hidden


def test_added_tokens_come_with_the_adapter(base: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<step>"])
    model.resize_token_embeddings(len(tokenizer))
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    opened, theirs = load_policy(tmp_path / "adapter")
    assert opened.get_input_embeddings().num_embeddings == len(theirs) == len(tokenizer)


def test_adapters_that_cannot_be_opened(base: Path, adapter: Path) -> None:
    shutil.move(base, base.with_name("moved"))
    with pytest.raises(FileNotFoundError, match=r"a LoRA adapter of .*base.*not a folder here.*base_model"):
        load_policy(adapter)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"without adapter_model.safetensors.*pickled weights are not opened"):
        load_policy(adapter)


def test_stages_take_a_peft_folder(base: Path, adapter: Path, tmp_path: Path) -> None:
    """sample draws what the merged model draws, and a value model, a trainer or vLLM would find a plain folder."""
    counts = "train_per_level: [2, 2, 2, 2, 2]\ntest_per_level: [1, 1, 1, 1, 1]\n"
    sampling = "split: test\ndecoding: {n: 1, temperature: 0, max_new_tokens: 4}\n"
    files = {
        "recipe.yaml": "name: peft\n",
        "1_prepare.yaml": f"stage: prepare\nsource: procedural\n{counts}",
        "2_sample.yaml": f'stage: sample\npolicy: {adapter}\ndata: "@prepare"\n{sampling}',
    }
    (tmp_path / "recipe").mkdir()
    for name, text in files.items():
        (tmp_path / "recipe" / name).write_text(text)
    run_recipe(load_recipe(tmp_path / "recipe", [f"runs={tmp_path / 'runs'}"]))
    rows = read_jsonl(next((tmp_path / "runs" / "sample").glob("*/samples.jsonl")))
    problems = read_jsonl(next((tmp_path / "runs" / "prepare").glob("*/problems_test.jsonl")))
    prompts = [f"# Question\n\n{row['problem']}\n\n# Solution\n\n" for row in problems]
    expected = generate(*load_policy(adapter), prompts, temperature=0, max_new_tokens=4)
    assert [row["text"] for row in rows] == expected.texts


def test_a_reward_model_starts_from_a_peft_folder(adapter: Path, tmp_path: Path) -> None:
    records = [Stepwise("1+1", ["2"], [1], 1), Stepwise("1+1", ["3"], [0], 0)] * 2
    train(
        adapter, records, "orm", tmp_path / "rm", TrainSettings(num_train_epochs=0.01, batch_size=4, learning_rate=0.0)
    )
    trunk = Scorer.from_pretrained(tmp_path / "rm", "cpu").model.model
    merged = load_policy(adapter)[0].model
    assert torch.allclose(trunk.layers[0].mlp.up_proj.weight, merged.layers[0].mlp.up_proj.weight, atol=1e-6)


def with_tokens(base: Path, **special: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens(special) if special else tokenizer.add_tokens(["<|im_start|>"])
    tokenizer.save_pretrained(base)


def test_a_pad_token_without_an_embedding(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_tokens(base, pad_token="[PAD]")
    model, tokenizer = load_policy(base)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert "pad token [PAD] has id" in caplog.text and "EOS pads instead" in caplog.text
    generate(model, tokenizer, ["a", "abc"], max_new_tokens=2)  # pads: raised IndexError
    save_policy(model, tokenizer, base.with_name("again"))
    load_policy(base.with_name("again"))


def test_a_reward_model_pads_with_eos_too(base: Path, tmp_path: Path) -> None:
    with_tokens(base, pad_token="[PAD]")
    records = [Stepwise("1+1", ["2"], [1], 1), Stepwise("1+10", ["3"], [0], 0)] * 2
    train(base, records, "orm", tmp_path / "rm", TrainSettings(num_train_epochs=0.01, batch_size=4))
    assert len(Scorer.from_pretrained(tmp_path / "rm", "cpu").score_texts(["1+1", "2"], [["2"], ["30"]])) == 2


def test_an_embedding_smaller_than_the_tokenizer(base: Path) -> None:
    with_tokens(base)
    rows = AutoModelForCausalLM.from_pretrained(base).config.vocab_size
    with pytest.raises(ValueError, match=rf"has {rows + 1} tokens, .* embeddings for {rows}: '<.im_start.>'"):
        load_policy(base)


def test_gguf_weights_only(tmp_path: Path) -> None:
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match=r"GGUF weights only \(model-q4.gguf\).*gguf_file='model-q4.gguf'\)"):
        load_policy(tmp_path)


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config.json is missing"):
        load_policy(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be read"):
        read_architecture(tmp_path)
