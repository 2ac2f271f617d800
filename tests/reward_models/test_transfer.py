"""Imports against the read-out of the source model, computed with plain `transformers`; exports against the scorer."""

import jinja2
import pytest
import torch
from conftest import words_task
from safetensors.torch import load_file, save_file
from tokenizers_for_tests import byte_level_bpe, sentencepiece_style, tiny_llama
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Qwen2Config,
    Qwen2Model,
)

from reward_models.__main__ import run
from reward_models.contract import StepContract
from reward_models.export import export_sequence_classification, score_template
from reward_models.model import new_model
from reward_models.score import Scorer
from reward_models.transfer import import_model, read_weights

STEPS = ["good step", "bad step", "good step"]


def save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_paper_model_with_two_row_head(tmp_path):
    """Logit = mean of the two rows, at the first newline behind a step and at the last token (the paper's C.2)."""
    tokenizer = sentencepiece_style()
    policy = tiny_llama(tokenizer, seed=3)
    source = save(policy, tokenizer, tmp_path / "source")
    state = load_file(source / "model.safetensors")
    torch.manual_seed(0)
    head = torch.randn(2, 32)
    save_file({**state, "lm_head.weight": head}, source / "model.safetensors", {"format": "pt"})
    contract = import_model(source, tmp_path / "out", "e2h")
    assert (contract.readout, contract.kind) == ("separator", "prm")
    text = "# Question\n\nq\n\n# Solution\n\n" + "\n\n".join(STEPS)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    newline = tokenizer.convert_tokens_to_ids("<0x0A>")
    with torch.no_grad():
        logits = (policy.model(ids).last_hidden_state[0] @ head.T).mean(-1)
    newlines = [t for t, token in enumerate(ids[0].tolist()) if token == newline]
    # three breaks of two newlines stand before the first step
    wanted = [newlines[6], newlines[8], len(ids[0]) - 1]
    ours = Scorer.from_pretrained(tmp_path / "out").score("q", [STEPS])[0]
    assert ours.logits == pytest.approx(logits[wanted].tolist(), abs=1e-5)


def speaker_of_marks(tied):
    """A language model that says + or - after the tag, which its tokenizer has as a token, and that tokenizer."""
    tokenizer = byte_level_bpe()
    tokenizer.add_tokens(["ки"])
    policy = tiny_llama(tokenizer, seed=4)
    policy.config.tie_word_embeddings = tied
    if not tied:
        policy.lm_head.weight = nn.Parameter(0.1 * torch.randn_like(policy.lm_head.weight))
    ids = tokenizer("Step 1: 1 + 1 = 2. ки", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        state_H = policy.model(ids).last_hidden_state[0, -1]
        for mark, share in (("+", 0.3), ("-", 0.31)):
            policy.lm_head.weight[tokenizer.convert_tokens_to_ids(mark)] = share * state_H
    return policy, tokenizer


@pytest.mark.parametrize("tied", [True, False])
def test_math_shepherd_style(tmp_path, tied):
    """P(good) = softmax over the logits of + and - at the tag, as its model card computes it."""
    policy, tokenizer = speaker_of_marks(tied)
    source = save(policy, tokenizer, tmp_path / "source")
    import_model(source, tmp_path / "out", "math-shepherd")
    steps = [f"Step {k}: {step}" for k, step in enumerate(STEPS, 1)]
    text = "q " + "\n".join(f"{step} ки" for step in steps)
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    ends = [index + 2 for index in range(len(text)) if text.startswith("ки", index)]
    stops = [stop for _, stop in encoded["offset_mapping"][0].tolist()]
    places = [max(t for t, stop in enumerate(stops) if stop == end) for end in ends]
    pair = [tokenizer.encode(mark, add_special_tokens=False)[-1] for mark in "+-"]
    with torch.no_grad():
        probs = policy(encoded["input_ids"]).logits[0][places][:, pair].softmax(-1)[:, 0]
    ours = Scorer.from_pretrained(tmp_path / "out").score("q", [steps])[0]
    assert ours.steps == pytest.approx(probs.tolist(), abs=1e-5)


def test_language_models_are_not_process_reward_models(base, tmp_path):
    """Refused by the tokens that the style reads, and where they are there, by what the model says at the tag."""
    with pytest.raises(ValueError, match=r"no token for ' ки', at which a math-shepherd model is read"):
        import_model(base, tmp_path / "out", "math-shepherd")
    tokenizer = byte_level_bpe()
    tokenizer.add_tokens(["ки"])
    source = save(tiny_llama(tokenizer), tokenizer, tmp_path / "source")
    with pytest.raises(ValueError, match=r"at ' ки' this language model says '\+' or '-' with probability 0\.0"):
        import_model(source, tmp_path / "out", "math-shepherd")
    with pytest.raises(ValueError, match="with 2 rows"):
        import_model(source, tmp_path / "out", "e2h")
    assert not (tmp_path / "out").exists()
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=4, num_labels=2, pad_token_id=2)  # fmt: skip
    source = save(LlamaForSequenceClassification(config), tokenizer, tmp_path / "classifier")
    with pytest.raises(ValueError, match=r"a LlamaForSequenceClassification; a trl-prm model is a \.\.\.ForTokenCl"):
        import_model(source, tmp_path / "out", "trl-prm")


def test_command_line_refuses_a_language_model(base, tmp_path, capsys):
    assert run(["export", "--from", "math-shepherd", str(base), str(tmp_path / "out")]) == 1
    assert "no token for ' ки'" in capsys.readouterr().err


def test_an_import_keeps_the_data_type_of_its_source(tmp_path):
    policy, tokenizer = speaker_of_marks(tied=False)
    source = save(policy.to(torch.bfloat16), tokenizer, tmp_path / "source")
    import_model(source, tmp_path / "out", "math-shepherd")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {str(value.dtype) for name, value in stored.items() if name.startswith("model.")} == {"torch.bfloat16"}
    rows = policy.lm_head.weight.float()[tokenizer.convert_tokens_to_ids(["+", "-"])]
    assert torch.equal(stored["score.weight"][0], (rows[0] - rows[1]).detach())


def test_qwen_prm_style(tmp_path):
    """softmax over two labels, [:, 1], behind Linear-ReLU-Linear at each <extra_0>."""
    tokenizer = byte_level_bpe()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_0>"]})
    torch.manual_seed(5)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2Model(config).eval()
    head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    source = tmp_path / "source"
    config.architectures = ["Qwen2ForProcessRewardModel"]
    save(model, tokenizer, source)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state |= {f"score.{name}": value for name, value in head.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, source / "model.safetensors")
    import_model(source, tmp_path / "out", "qwen-prm")
    prompt = (
        "<|im_start|>system\nPlease reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>user\n3?<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = tokenizer(prompt + "<extra_0>".join(STEPS) + "<extra_0>", return_tensors="pt")["input_ids"]
    marker = tokenizer.convert_tokens_to_ids("<extra_0>")
    with torch.no_grad():
        probs = head(model(ids).last_hidden_state[0][ids[0] == marker]).softmax(-1)[:, 1]
    scorer = Scorer.from_pretrained(tmp_path / "out")
    assert scorer.score("3?", [STEPS])[0].steps == pytest.approx(probs.tolist(), abs=1e-5)
    assert (tmp_path / "out/model.safetensors").is_file()


def test_trl_prm_style(tmp_path):
    """TRL's old PRMTrainer: BOS, prompt, and each completion followed by separator ids, tokenised one by one."""
    tokenizer = byte_level_bpe()
    torch.manual_seed(6)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=2,
    )
    model = LlamaForTokenClassification(config).eval()
    nn.init.normal_(model.score.bias)
    source = save(model, tokenizer, tmp_path / "source")
    contract = import_model(source, tmp_path / "out", "trl-prm", aggregation="prod")
    assert contract.aggregation == "prod"
    steps = ["good step.", "bad step."]
    ids = [tokenizer.bos_token_id, *tokenizer.encode("What is 3?", add_special_tokens=False)]
    places = []
    for step in steps:
        ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
        places.append(len(ids) - 1)
    with torch.no_grad():
        probs = model(torch.tensor([ids])).logits[0][places].softmax(-1)[:, 1]
    ours = Scorer.from_pretrained(tmp_path / "out").score("What is 3?", [steps])[0]
    assert ours.steps == pytest.approx(probs.tolist(), abs=1e-5)
    assert ours.score == pytest.approx(probs.prod().item(), abs=1e-5)


def test_import_refuses_what_it_does_not_know(base, prm, tmp_path):
    with pytest.raises(ValueError, match="choose one of e2h, math-shepherd, qwen-prm, trl-prm"):
        import_model(base, tmp_path, "skywork")
    with pytest.raises(ValueError, match=r"expected 'score.2.weight' with 2 rows, found nothing"):
        import_model(base, tmp_path, "qwen-prm")
    with pytest.raises(ValueError, match=r"with 2 rows, found \(1, 32\)"):
        import_model(prm[0], tmp_path, "trl-prm")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="only safetensors"):
        read_weights(tmp_path / "pickled")


def test_shards_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(ValueError, match="outside the folder"):
        read_weights(tmp_path)


def test_exported_orm_is_a_sequence_classifier(orm, tmp_path):
    assert export_sequence_classification(orm[0], tmp_path) <= 1e-5
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    records = words_task(12, seed=9)
    texts = [f"# Question\n\n{r.problem}\n\n# Solution\n\n" + "\n\n".join(r.steps) for r in records]
    with torch.no_grad():
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        logits = model(**batch).logits[:, 0]
    ours = Scorer.from_pretrained(orm[0]).score_texts([r.problem for r in records], [r.steps for r in records])
    assert logits.tolist() == pytest.approx([score.logits[-1] for score in ours], abs=1e-5)


CHAT = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"


@pytest.fixture
def chat_orm(tmp_path):
    """An outcome model in bf16 from a chat base, whose template spells BOS and whose EOS pads, as in chat models."""
    tokenizer = byte_level_bpe()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = CHAT
    source = save(tiny_llama(tokenizer), tokenizer, tmp_path / "base")
    model = new_model(source, StepContract("orm", template="<s><|user|>{problem}<|assistant|>"))
    torch.manual_seed(1)
    nn.init.normal_(model.score.weight)
    model.config.pad_token_id = tokenizer.pad_token_id
    return save(model.to(torch.bfloat16), tokenizer, tmp_path / "orm")


@pytest.mark.parametrize("kind", ["orm", "chat_orm"])
def test_exported_orm_ranks_in_sentence_transformers(kind, request, tmp_path):
    """The export as it is, of plain and chat bases: CrossEncoder joins the pair by the tokenizer's chat template."""
    cross_encoder = pytest.importorskip(
        "sentence_transformers", reason="pip install sentence-transformers"
    ).CrossEncoder
    found = request.getfixturevalue(kind)
    source = found[0] if isinstance(found, tuple) else found
    export_sequence_classification(source, tmp_path / "out")
    documents = ["bad step.\n\nbad step.", "good step.\n\n# Answer\n\n5", "good step.\n\nbad step."]
    ranked = cross_encoder(str(tmp_path / "out"), device="cpu").rank("What is 3?", documents)
    scorer = Scorer.from_pretrained(source)
    ours = [one.score for one in scorer.score("What is 3?", [document.split("\n\n") for document in documents])]
    bf16 = kind == "chat_orm"
    assert [entry["score"] for entry in sorted(ranked, key=lambda entry: entry["corpus_id"])] == pytest.approx(
        ours, abs=2e-2 if bf16 else 1e-5
    )


def test_an_export_keeps_the_data_type_of_its_source_and_spells_bos_once(chat_orm, tmp_path):
    export_sequence_classification(chat_orm, tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {str(value.dtype) for value in stored.values()} == {"torch.bfloat16"}
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    messages = [{"role": "query", "content": "q"}, {"role": "document", "content": "good step."}]
    text = "<|user|>q<|assistant|>good step."
    expected = tokenizer(text)["input_ids"]
    assert tokenizer.apply_chat_template(messages, return_dict=False) == expected  # it adds nothing of its own
    template = (tmp_path / "out/score_template.jinja").read_text()
    assert jinja2.Environment().from_string(template).render(messages=messages) == text  # vLLM's tokenizer adds BOS
    ours = Scorer.from_pretrained(chat_orm).score("q", [["good step."]])[0].logits[-1]
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    with torch.no_grad():
        assert model(torch.tensor([expected])).logits.item() == pytest.approx(ours, abs=1e-4)


def test_score_template_says_what_the_contract_says():
    """Rendered by jinja2 itself, with quotes, backslashes and braces in the way."""
    contract = StepContract("orm", template='\\boxed "{problem}" {{ x }}\n\n%}é')
    messages = [{"role": "query", "content": "1 {{ 2 }}"}, {"role": "document", "content": "a\n\nb"}]
    rendered = jinja2.Environment(trim_blocks=True).from_string(score_template(contract)).render(messages=messages)
    assert rendered == contract.prompt("1 {{ 2 }}") + "a\n\nb"


def test_prm_cannot_be_a_sequence_classifier(prm, tmp_path):
    with pytest.raises(ValueError, match="only models with aggregation 'last'"):
        export_sequence_classification(prm[0], tmp_path)
