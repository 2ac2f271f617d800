"""Training on a task whose answer is in the text, so that a model that learns must separate the classes."""

import importlib.util
import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from conftest import FAST, LEARN, words_task
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
)

from reward_models.__main__ import run as command
from reward_models.adapters import CannotShareError, fingerprint, read_adapter
from reward_models.contract import KEY, StepContract
from reward_models.dataset import LengthSampler, build_rows
from reward_models.export import export_sequence_classification
from reward_models.forward import keeps_texts_apart
from reward_models.model import head_of, load_tokenizer, new_model
from reward_models.pairs import Pair
from reward_models.pairwise import train_pairwise
from reward_models.records import Stepwise
from reward_models.score import Scorer
from reward_models.settings import LoraSettings, PairwiseSettings
from reward_models.train import TrainSettings, train


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_prm_learns_steps_and_reports_it(prm):
    folder, result = prm
    assert result["validation"]["step_auc"] > 0.99
    assert result["validation"]["first_error"]["f1"] > 0.9
    scores = Scorer.from_pretrained(folder).score("What is 3?", [["good step.", "bad step.", "good step."]])[0]
    assert scores.steps[0] > 0.8 > 0.2 > scores.steps[1] and scores.steps[2] > 0.8
    assert scores.score == min(scores.steps)
    assert json.loads((folder / "training.json").read_text())["used"] == 160
    assert "step_auc" in (folder / "README.md").read_text()


def test_orm_learns_outcomes_without_step_labels(base, tmp_path):
    records = [replace(record, labels=None) for record in words_task(160, 1)]
    result = train(base, records, "orm", tmp_path, LEARN, validation=words_task(60, 2))
    assert result["validation"]["outcome_auc"] > 0.95
    assert result["validation"]["step_auc"] is not None  # the same positions, read as steps


def test_oprm_learns_both(base, tmp_path):
    records = [replace(r, labels=None) if i % 2 else replace(r, outcome=None) for i, r in enumerate(words_task(200, 1))]
    settings = replace(LEARN, orm_share=0.3, loss_on="step_end")
    result = train(base, records, "oprm", tmp_path, settings, validation=words_task(60, 2))
    assert result["used"] == round(100 / 0.7) and result["thinned"] == 200 - result["used"]
    assert result["validation"]["step_auc"] > 0.9


def test_two_runs_are_byte_identical_and_the_seed_matters(base, tmp_path):
    records, settings = words_task(48, 1), replace(FAST, num_train_epochs=1)
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        train(base, records, "prm", tmp_path / name, replace(settings, seed=seed))
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_accumulation_does_not_change_the_loss_or_the_weights(base, tmp_path):
    """Token-weighted means over micro-batches of unequal length must be those of the whole batch."""
    records, losses = words_task(64, 1), {}
    for micro in (16, 4):
        logged = []
        settings = replace(
            FAST, num_train_epochs=1, per_device_train_batch_size=micro, logging_steps=1, group_by_length=False
        )
        train(base, records, "prm", tmp_path / str(micro), settings, on_log=logged.append)
        losses[micro] = [log["loss"] for log in logged if "loss" in log]
    assert losses[4] == pytest.approx(losses[16], rel=1e-4)
    assert losses[16][0] == pytest.approx(math.log(2), abs=1e-5)  # zero head: every probability is 1/2
    a, b = (load_file(tmp_path / str(micro) / "model.safetensors") for micro in (16, 4))
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_record_weights_change_the_loss(base, tmp_path):
    """With weight 0 on the bad records only the good ones train, and every step becomes good."""
    records = [
        Stepwise("q", ["good step." if good else "bad step."], [good], extra={"weight": float(good)})
        for good in (0, 1) * 40
    ]
    train(base, records, "prm", tmp_path, LEARN)
    scores = Scorer.from_pretrained(tmp_path).score("q", [["bad step."], ["good step."]])
    assert min(score.score for score in scores) > 0.8


def test_killed_run_resumes_to_the_same_weights(base, tmp_path):
    """Stop after 6 of 9 steps by an error in the log callback, run again, compare with an uninterrupted run."""
    records = words_task(48, 1)
    settings = replace(FAST, save_steps=2, logging_steps=1)

    def die(log):
        if log["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, records, "prm", tmp_path / "killed", settings, on_log=die)
    assert (tmp_path / "killed/checkpoints/checkpoint-4").is_dir()
    steps = []
    train(base, records, "prm", tmp_path / "killed", settings, on_log=lambda log: steps.append(log["step"]))
    assert steps[0] == 5  # went on, did not start over
    train(base, records, "prm", tmp_path / "whole", settings)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    assert not (tmp_path / "killed/checkpoints").exists()


def test_checkpoint_of_other_settings_is_not_resumed(base, tmp_path):
    def die(log):
        raise KeyboardInterrupt

    records = words_task(32, 1)
    settings = replace(FAST, save_steps=1, logging_steps=2)
    with pytest.raises(KeyboardInterrupt):
        train(base, records, "prm", tmp_path, settings, on_log=die)
    steps = []
    changed = replace(settings, learning_rate=1e-3, logging_steps=1)
    train(base, records, "prm", tmp_path, changed, on_log=lambda log: steps.append(log["step"]))
    assert steps[0] == 1


def test_early_stopping_keeps_the_best_weights(base, tmp_path):
    """Training labels are inverted, so validation only gets worse: the first evaluation must win."""
    records = [replace(r, labels=[1 - label for label in r.labels]) for r in words_task(64, 1)]
    logged = []
    settings = replace(FAST, num_train_epochs=4, eval_steps=2, patience=2, logging_steps=1, learning_rate=3e-3)
    result = train(base, records, "prm", tmp_path, settings, validation=words_task(40, 2), on_log=logged.append)
    curve = [log["eval_step_auc"] for log in logged if "eval_step_auc" in log]
    assert result["steps"] < 16
    assert result["validation"]["step_auc"] == pytest.approx(max(curve))


def test_lora_merges_into_a_plain_checkpoint(base, tmp_path):
    settings = replace(LEARN, lora=LoraSettings(8, 32), learning_rate=2e-2)
    result = train(base, words_task(160, 1), "prm", tmp_path, settings, validation=words_task(60, 2))
    names = load_file(tmp_path / "model.safetensors").keys()
    assert not [name for name in names if "lora" in name]
    assert result["validation"]["step_auc"] > 0.9
    loaded = Scorer.from_pretrained(tmp_path).score("q", [["good step."]])[0].score
    assert loaded > 0.5


def test_lora_keeps_the_precision_of_its_base_and_so_does_the_export(base, tmp_path):
    """Merged in float32, a model of a bf16 base would take twice the room of its base."""
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "base")
    train(
        tmp_path / "base",
        words_task(16, 1),
        "orm",
        tmp_path / "orm",
        replace(FAST, num_train_epochs=1, lora=LoraSettings(4)),
    )
    assert export_sequence_classification(tmp_path / "orm", tmp_path / "export") < 1e-4
    for name in ("orm", "export"):
        weights = load_file(tmp_path / name / "model.safetensors")
        assert {value.dtype for value in weights.values()} == {torch.bfloat16}, name


@pytest.mark.parametrize("has_it", [True, False])
def test_what_is_stored_in_bf16_validates_in_float32_where_the_processor_lacks_it(base, tmp_path, monkeypatch, has_it):
    """Seven records of a real model of 0.5 billion weights took more than seven minutes."""
    monkeypatch.setattr("reward_models.prepare.machine_computes_bf16", lambda: has_it)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "base")
    seen, validated = [], []
    settings = replace(FAST, num_train_epochs=1, lora=LoraSettings(4))
    result = train(
        tmp_path / "base", words_task(16, 1), "orm", tmp_path / "orm", settings, words_task(8, 2),
        on_epoch=lambda _, scorer: seen.append(scorer), on_validated=validated.append,
    )  # fmt: skip
    assert {one.dtype for one in seen[0].model.parameters()} == {torch.bfloat16 if has_it else torch.float32}
    stored = load_file(tmp_path / "orm" / "model.safetensors")
    assert {one.dtype for one in stored.values()} == {torch.bfloat16}
    assert sum(validated) == result["validation"]["records"] == 8


@pytest.mark.parametrize("kind", ["orm", "pairwise"])
def test_full_training_stays_float32_and_its_export_has_the_precision_of_the_base(base, tmp_path, kind, capsys):
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "base")
    if kind == "orm":
        train(tmp_path / "base", words_task(16, 1), "orm", tmp_path / "rm", replace(FAST, num_train_epochs=1))
    else:
        pairs = [Pair("What is 3?", "good step.", "bad step.")] * 8
        settings = PairwiseSettings(learning_rate=1e-2, num_train_epochs=1)
        train_pairwise(tmp_path / "base", pairs, tmp_path / "rm", settings)
    assert command(["export", str(tmp_path / "rm"), str(tmp_path / "half")]) == 0
    assert command(["export", str(tmp_path / "rm"), str(tmp_path / "whole"), "--dtype", "float32"]) == 0
    half, whole = capsys.readouterr().out.splitlines()
    assert "in bfloat16," in half and "in float32," in whole
    for name, dtype in (("rm", torch.float32), ("half", torch.bfloat16), ("whole", torch.float32)):
        weights = load_file(tmp_path / name / "model.safetensors")
        assert {value.dtype for value in weights.values()} == {dtype}, name
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "whole")}
    assert sizes["half"] < 0.6 * sizes["whole"]


def test_lora_keeps_an_adapter_that_makes_the_merged_model_again(base, tmp_path):
    """PEFT itself opens it, and `base.json` names the base by its weights, wherever they lie and whatever class."""
    for name in "ab":
        train(base, words_task(48, 1), "prm", tmp_path / name, replace(FAST, lora=LoraSettings(4)))
    files = [{file.name: file.read_bytes() for file in (tmp_path / name / "adapter").iterdir()} for name in "ab"]
    assert files[0] == files[1] and set(files[0]) == {"adapter_config.json", "adapter_model.safetensors", "base.json"}
    saved = read_adapter(tmp_path / "a")
    assert saved.targets == sorted(saved.targets)  # PEFT's set has another order in each process
    assert (saved.rank, saved.alpha, saved.base) == (4, 16, str(base.resolve()))
    copy = shutil.copytree(base, tmp_path / "elsewhere")
    assert saved.fingerprint == fingerprint(AutoModelForCausalLM.from_pretrained(copy))
    merged = AutoModelForTokenClassification.from_pretrained(tmp_path / "a")
    assert saved.fingerprint != fingerprint(merged)
    ids = torch.arange(5, 25)[None]
    plain = new_model(base, StepContract("prm"))
    adapted = PeftModel.from_pretrained(plain, tmp_path / "a/adapter")
    assert saved.fingerprint == fingerprint(adapted)
    logits = merged(ids).logits
    assert logits.abs().max() > 0.1
    assert torch.allclose(adapted(ids).logits, logits, atol=1e-5)


def test_an_adapter_that_cannot_be_shared_says_why(base, tmp_path):
    train(base, words_task(16, 1), "prm", tmp_path, replace(FAST, num_train_epochs=1, lora=LoraSettings(4)))
    config = tmp_path / "adapter/adapter_config.json"
    text = config.read_text()
    config.write_text(text.replace('"use_dora": false', '"use_dora": true'))
    with pytest.raises(CannotShareError, match=r"is not a plain LoRA adapter \(use_dora\)"):
        read_adapter(tmp_path)
    config.write_text(text)
    with pytest.raises(CannotShareError, match="whose weights are not those of other"):
        read_adapter(tmp_path).check_base("another", "other")
    (tmp_path / "adapter/base.json").unlink()
    with pytest.raises(CannotShareError, match=r"has no base\.json"):
        read_adapter(tmp_path)
    # weights that were trained in full have no adapter, not even that of earlier ones
    train(base, words_task(16, 1), "prm", tmp_path, replace(FAST, num_train_epochs=1))
    with pytest.raises(CannotShareError, match="not trained with LoRA"):
        read_adapter(tmp_path)


def test_batches_without_padding_train_the_same(base, tmp_path):
    """Texts of unequal length in one row must not see each other, in the plain attention and in the fused one."""
    records, losses = words_task(48, 1), {}
    for packed in (False, True):
        logged = []
        settings = replace(
            FAST,
            num_train_epochs=4,
            padding_free=packed,
            logging_steps=1,
            per_device_train_batch_size=8,
            group_by_length=False,
        )
        train(base, records, "prm", tmp_path / str(packed), settings, on_log=logged.append)
        losses[packed] = [log["loss"] for log in logged if "loss" in log]
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    assert losses[True][-1] < 0.8 * losses[True][0]
    a, b = (load_file(tmp_path / str(packed) / "model.safetensors") for packed in (False, True))
    assert all(torch.allclose(a[name], b[name], atol=1e-3) for name in a)


def test_packed_rows_hold_every_token_once(base):
    rows, _ = build_rows(words_task(5, 1), load_tokenizer(base), StepContract("prm"), loss_on="step_end", max_length=99)
    batch = rows.pack([3, 1])
    long, short = rows.lengths[3], rows.lengths[1]
    assert batch["input_ids"].tolist() == [[*rows.ids[3].tolist(), *rows.ids[1].tolist()]]
    assert batch["position_ids"].tolist() == [[*range(long), *range(short)]]
    assert batch["weights"].sum() == sum((rows.labels[index] != -100).sum() for index in (3, 1))


def test_a_model_that_mixes_packed_texts_is_refused(base):
    assert keeps_texts_apart(new_model(base, StepContract("prm")))
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    assert not keeps_texts_apart(BertForTokenClassification(config))


def test_lowest_layers_can_be_frozen(base, tmp_path):
    train(base, words_task(32, 1), "prm", tmp_path, replace(FAST, num_train_epochs=1, freeze_layers=1))
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    moved = {
        name.rpartition("layers.")[2].split(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert moved == {"1", "model"}  # model.norm; the embeddings stay
    with pytest.raises(ValueError, match="the model has 2 layers"):
        train(base, words_task(8, 1), "prm", tmp_path, replace(FAST, freeze_layers=3))


@pytest.mark.slow
def test_qlora_trains_on_4_bit_weights_or_says_what_is_missing(base, tmp_path):
    settings = replace(LEARN, lora=LoraSettings(8, 32), learning_rate=2e-2, load_in_4bit=True)
    records, held_out = words_task(400, 1), words_task(60, 2)
    if importlib.util.find_spec("bitsandbytes") is None:
        with pytest.raises(ValueError, match="pip install bitsandbytes"):
            train(base, records, "prm", tmp_path, settings)
        return
    result = train(base, records, "prm", tmp_path, settings, validation=held_out)
    assert result["validation"]["step_auc"] > 0.9
    saved = load_file(tmp_path / "model.safetensors")
    assert saved["model.layers.0.mlp.up_proj.weight"].dtype == torch.float32
    assert not [name for name in saved if "lora" in name or "quant" in name]
    # the adapter is one on the unquantised base, as the merged weights are
    adapted = PeftModel.from_pretrained(new_model(base, StepContract("prm")), tmp_path / "adapter")
    assert read_adapter(tmp_path).fingerprint == fingerprint(adapted)
    ids = torch.arange(5, 25)[None]
    merged = AutoModelForTokenClassification.from_pretrained(tmp_path)
    assert torch.allclose(adapted(ids).logits, merged(ids).logits, atol=1e-5)


def test_frozen_parts_stay_as_they_were(base, tmp_path):
    train(
        base,
        words_task(32, 1),
        "prm",
        tmp_path,
        replace(FAST, num_train_epochs=1, freeze_embeddings=True, freeze_norms=True),
    )
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert not torch.equal(before["model.layers.0.mlp.up_proj.weight"], after["model.layers.0.mlp.up_proj.weight"])
    assert torch.count_nonzero(after["score.bias"]) == 0 < torch.count_nonzero(after["score.weight"])


def test_model_card_names_levels_and_sources(base, tmp_path):
    records = [replace(r, extra={"level": 1 + i % 2, "source": "prm800k"}) for i, r in enumerate(words_task(9, 1))]
    train(base, records, "prm", tmp_path, replace(FAST, num_train_epochs=1))
    card = (tmp_path / "README.md").read_text()
    assert "Levels of its problems: 1: 5, 2: 4. Sources: prm800k: 9." in card
    assert str(base.parent) not in card


def test_new_model_has_a_zero_head_and_no_dropout(base):
    model = new_model(base, StepContract("prm"))
    assert all(torch.count_nonzero(parameter) == 0 for parameter in head_of(model).parameters())
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} <= {0.0}
    assert model.dtype == torch.float32


def test_contract_is_in_the_saved_configuration(prm):
    config = AutoConfig.from_pretrained(prm[0])
    assert getattr(config, KEY)["kind"] == "prm"
    assert config.num_labels == 1


def test_gradient_checkpointing_and_bf16_run(base, tmp_path):
    settings = replace(LEARN, gradient_checkpointing=True, bf16=True)
    result = train(base, words_task(160, 1), "prm", tmp_path, settings, validation=words_task(40, 2))
    assert result["validation"]["step_auc"] > 0.9
    assert load_file(tmp_path / "model.safetensors")["score.weight"].dtype == torch.float32


def test_no_pickle_is_left_behind(prm):
    assert sorted(path.suffix for path in prm[0].iterdir()) == [".json"] * 4 + [".md", ".safetensors"]


def test_sampler_covers_all_rows_and_groups_lengths():
    lengths = [(7 * i) % 50 + 1 for i in range(103)]
    orders = [list(LengthSampler(lengths, 8, seed=0, epoch=lambda e=epoch: e)) for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(103)) and orders[0] != orders[1]
    spans = [
        max(lengths[i] for i in orders[0][k : k + 8]) - min(lengths[i] for i in orders[0][k : k + 8])
        for k in range(0, 96, 8)
    ]
    assert max(spans) <= 5  # 103 rows over 50 lengths: 8 neighbours span about 4


def test_over_long_and_unlabelled_records_are_counted(base):
    tokenizer = load_tokenizer(base)
    records = [Stepwise("q", ["a\n\nb"], [1]), Stepwise("q", ["good step. " * 50], [1]), Stepwise("q", ["x"])]
    _, counts = build_rows(records, tokenizer, StepContract("prm"), loss_on="step_end", max_length=60)
    assert counts == {
        "records": 3,
        "used": 1,
        "without_label": 1,
        "thinned": 0,
        "too_long": 1,
        "split_otherwise": 1,
        "trained_tokens": 1,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_on": "tokens"}, "every_token, step_end"),
        ({"per_device_train_batch_size": 3}, "not a multiple of per_device_train_batch_size 3"),
        ({"patience": 2}, "needs evaluations"),
        ({"load_in_4bit": True}, r"lora\.r above 0"),
        ({"freeze_layers": 1, "lora": LoraSettings(4)}, "0 with LoRA"),
        ({"patience": 2, "eval_steps": 4, "save_steps": 6}, "multiple of eval_steps"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(changes, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**changes)


def test_wrong_input_is_refused(base, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        train(tmp_path / "nowhere", words_task(2, 0), "prm", tmp_path, FAST)
    with pytest.raises(ValueError, match="no record trains a model of kind 'prm'"):
        train(base, [Stepwise("q", ["a"], None, 1)], "prm", tmp_path, FAST)
    one_class = [Stepwise("q", ["a"], [1], 1)]
    with pytest.raises(ValueError, match="validation labels are only"):
        train(base, words_task(4, 0), "prm", tmp_path, replace(FAST, eval_steps=1, patience=1), one_class)
    with pytest.raises(ValueError, match="lower max_length"):
        train(
            base,
            [Stepwise("q", ["good step. " * 300], [n % 2]) for n in range(2)],
            "prm",
            tmp_path,
            replace(FAST, max_length=4096),
        )
