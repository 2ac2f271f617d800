"""Scores against plain `transformers` calls on one sequence at a time, which share no code with the scorer."""

import itertools
import math
import tracemalloc

import pytest
import torch
from tokenizers_for_tests import FAMILIES, byte_level_bpe, tiny_llama
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    Qwen2Config,
)

from reward_models.contract import StepContract
from reward_models.encode import Encoded, OverlongError
from reward_models.model import is_causal, new_model
from reward_models.prefix import can_share, common_prefix
from reward_models.score import BrokenModelError, Scorer, sigmoid

STEPS = ["Multiply: 4 * 2 = 8.", "", "Add — 3 + 8 = 11.", "# Answer\n\n11"]


def random_model(family, folder):
    """A model with a random (not zero) head, so that positions can be told apart."""
    tokenizer = FAMILIES[family]()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = new_model(folder, StepContract("prm"))
    torch.manual_seed(1)
    torch.nn.init.normal_(model.score.weight)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval(), tokenizer


def reference(model, tokenizer, problem, steps):
    """One forward pass over the text up to each step's end: the definition of the score, without offsets or batches."""
    logits, text = [], f"# Question\n\n{problem}\n\n# Solution\n\n"
    for index, step in enumerate(steps):
        text += ("\n\n" if index else "") + step
        with torch.no_grad():
            logits.append(model(**tokenizer(text, return_tensors="pt")).logits[0, -1, 0].item())
    return logits


def test_one_pass_equals_one_pass_per_step(tmp_path):
    """This tokenizer joins no full stop with a blank line, so prefixes of the text are prefixes of the tokens."""
    model, tokenizer = random_model("sentencepiece", tmp_path)
    steps = ["good step.", "1 2 3 bad step.", "3"]
    scores = Scorer(model, tokenizer, StepContract("prm")).score("1 2?", [steps])[0]
    assert scores.logits == pytest.approx(reference(model, tokenizer, "1 2?", steps), abs=1e-5)
    assert scores.steps == pytest.approx([1 / (1 + math.exp(-logit)) for logit in scores.logits])


@pytest.mark.parametrize("family", FAMILIES)
def test_batching_changes_nothing_and_order_is_kept(family, tmp_path):
    model, tokenizer = random_model(family, tmp_path)
    items = [(f"What is {n}?", STEPS[: 1 + n % 4] * (1 + n % 3)) for n in range(37)]
    single = [Scorer(model, tokenizer, StepContract("prm")).score(problem, [steps])[0] for problem, steps in items]
    for budget, window in itertools.product((1, 300, 100_000), (5, 1000)):
        scorer = Scorer(model, tokenizer, StepContract("prm"), max_tokens_per_batch=budget)
        batched = list(scorer.score_stream(iter(items), window=window))
        for one, many in zip(single, batched, strict=True):
            assert many.logits == pytest.approx(one.logits, abs=1e-5)


def test_bidirectional_model_is_masked(tmp_path):
    tokenizer = FAMILIES["wordpiece"]()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    config.num_labels = 1
    model = BertForTokenClassification(config).eval()
    assert not is_causal(model)
    scorer = Scorer(model, tokenizer, StepContract("orm"))
    alone = scorer.score("q", [["good step."]])[0].logits
    padded = scorer.score("q", [["good step."], ["bad step. " * 10]])[0].logits
    assert padded == pytest.approx(alone, abs=1e-5)


def test_pad_token_equal_to_eos_does_not_matter(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    items = [["good step."], ["good step.", "bad step. " * 5]]
    expected = Scorer(model, tokenizer, StepContract("prm")).score("q", items)
    tokenizer.pad_token = tokenizer.eos_token
    same = Scorer(model, tokenizer, StepContract("prm")).score("q", items)
    assert [score.logits for score in same] == [score.logits for score in expected]


def test_plain_transformers_reads_the_same_scores(prm):
    """No code of ours: tokenizer and AutoModel, offsets compared with the position of the step in the text."""
    model = AutoModelForTokenClassification.from_pretrained(prm[0], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(prm[0])
    text = "# Question\n\nWhat is 3?\n\n# Solution\n\ngood step.\n\nbad step.\n\n"  # every step is closed
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        logits = model(**encoded).logits[0, :, 0]
    ends = [text.index("good step.") + 10, text.index("bad step.") + 9]
    wanted = [max(t for t, (a, b) in enumerate(offsets) if a < end and a < b) for end in ends]
    ours = Scorer.from_pretrained(prm[0]).score("What is 3?", [["good step.", "bad step."]])[0]
    assert ours.logits == pytest.approx(logits[wanted].tolist(), abs=1e-5)


@pytest.mark.parametrize("overlong", ["error", "truncate_left", "skip"])
def test_over_long_solutions(overlong, tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    scorer = Scorer(model, tokenizer, StepContract("prm"), max_length=40, overlong=overlong)
    items = [("q", ["good step."], "first"), ("good " * 60, ["good step.", "bad step."], "second")]
    if overlong == "error":
        with pytest.raises(OverlongError, match=r"item second: \d+ tokens, the limit is 40"):
            list(scorer.score_stream(items))
        return
    first, second = scorer.score_stream(items)
    assert first.score > 0 and not first.skipped
    if overlong == "skip":
        assert second.steps == [] and math.isnan(second.score) and "item second" in second.skipped
        return
    # the rest behind BOS is the end of the text: the same as scoring those tokens directly
    ids = tokenizer(f"# Question\n\n{'good ' * 60}\n\n# Solution\n\ngood step.\n\nbad step.\n\n")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids[:1] + ids[-39:]])).logits[0, :, 0]
    assert second.logits[-1] == pytest.approx(logits[-1].item(), abs=1e-5)
    assert second.tokens == 40


def test_truncation_never_cuts_a_step(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    scorer = Scorer(model, tokenizer, StepContract("prm"), max_length=20, overlong="truncate_left")
    with pytest.raises(OverlongError, match="item 0: the solution alone"):
        scorer.score("q", [["good step. " * 20]])


def test_aggregation_of_the_contract_is_used(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    for name, function in [("min", min), ("prod", math.prod), ("last", lambda steps: steps[-1])]:
        scores = Scorer(model, tokenizer, StepContract("prm", aggregation=name)).score("q", [STEPS])[0]
        assert scores.score == pytest.approx(function(scores.steps))


def test_model_in_training_keeps_its_mode(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    model.train()
    Scorer(model, tokenizer, StepContract("prm")).score("q", [["good step."]])
    assert model.training


def test_streaming_reads_ahead_no_more_than_the_window(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    taken = itertools.count()
    stream = Scorer(model, tokenizer, StepContract("prm")).score_stream(
        ((f"{next(taken)}", ["good step."]) for _ in range(100)), window=10
    )
    next(stream)
    assert next(taken) == 10


def test_policy_and_broken_checkpoints_are_refused(base, prm, tmp_path):
    with pytest.raises(ValueError, match="no 'step_contract'"):
        Scorer.from_pretrained(base)
    with pytest.raises(FileNotFoundError):
        Scorer.from_pretrained(tmp_path / "nowhere")
    headless = tmp_path / "headless"
    policy = tiny_llama(byte_level_bpe())
    StepContract("prm").write_to(policy.config)
    policy.config.num_labels = 1
    policy.save_pretrained(headless)
    with pytest.raises(ValueError, match="hold no 'score"):
        Scorer.from_pretrained(headless)
    broken = tmp_path / "broken"
    model = AutoModelForTokenClassification.from_pretrained(prm[0])
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(broken)
    with pytest.raises(ValueError, match=r"up_proj.weight' holds NaN"):
        Scorer.from_pretrained(broken)


def test_wrong_calls(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    scorer = Scorer(model, tokenizer, StepContract("prm"))
    with pytest.raises(ValueError, match="no step"):
        scorer.score("q", [[]])
    with pytest.raises(ValueError, match="error, truncate_left, skip"):
        Scorer(model, tokenizer, StepContract("prm"), overlong="cut")
    assert scorer.score("q", []) == []


def test_sigmoid_does_not_overflow():
    assert (sigmoid(-1000.0), sigmoid(0.0), sigmoid(1000.0)) == (0.0, 0.5, 1.0)


def test_memory_stays_flat_over_a_stream(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    scorer = Scorer(model, tokenizer, StepContract("prm"))

    def peak(count):
        tracemalloc.start()
        for _ in scorer.score_stream(((f"q{n}", ["good step."]) for n in range(count)), window=50):
            pass
        high = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return high

    peak(100)
    assert peak(1000) < 1.5 * peak(200)


def test_a_bar_moves_with_every_batch_and_ends_at_all(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    scorer = Scorer(model, tokenizer, StepContract("prm"), max_tokens_per_batch=200, max_length=300, overlong="skip")
    items = [(f"q{n % 7}", ["good step."] * (1 + n % 4)) for n in range(40)]  # 28 different ones
    items.append(("long " * 200, ["good step."]))
    moves: list[int] = []
    stream = scorer.score_stream(items, on_scored=moves.append)
    assert next(stream).steps and sum(moves) == 41 == sum(1 for _ in stream) + 1
    assert len([count for count in moves if count]) > 3


def test_prefix_reuse_changes_no_score(tmp_path):
    """Sixteen solutions of a long problem and some others, with and without reuse, in one stream."""
    model, tokenizer = random_model("byte-level", tmp_path)
    long = "good " * 60
    items = [(long, STEPS[n % 3 :] + ["good step."] * (n % 5)) for n in range(16)]
    items[5:5] = [("short?", STEPS), (long + "!", STEPS), (long + "!", STEPS[:1])]
    plain = Scorer(model, tokenizer, StepContract("prm"), prefix_reuse=False, max_tokens_per_batch=1000)
    reuse = Scorer(model, tokenizer, StepContract("prm"), max_tokens_per_batch=1000)
    expected, found = list(plain.score_stream(items)), list(reuse.score_stream(items))
    for one, other in zip(expected, found, strict=True):
        assert other.logits == pytest.approx(one.logits, abs=1e-5)


def test_prefix_reuse_reads_the_problem_once(tmp_path):
    """Counted in tokens that enter the embedding."""
    model, tokenizer = random_model("byte-level", tmp_path)
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].numel()))
    problem, steps = "good " * 60, [[f"step {n}."] for n in range(20)]
    totals = []
    for reuse in (False, True):
        seen.clear()
        Scorer(model, tokenizer, StepContract("prm"), prefix_reuse=reuse).score(problem, steps)
        totals.append(sum(seen))
    assert totals[1] < totals[0] / 5


def test_equal_texts_are_read_once(tmp_path):
    """Counted in rows that enter the model; each item keeps its own place, name and lists."""
    model, tokenizer = random_model("byte-level", tmp_path)
    rows = []
    model.get_input_embeddings().register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    scorer = Scorer(model, tokenizer, StepContract("prm"), max_length=60, overlong="skip")
    long = ["good step. " * 60]
    items = [("q", STEPS[:1], "a"), ("q", long, "b"), ("q", STEPS[:1], "c"), ("r", STEPS[:1], "d"), ("q", long, "e")]
    a, b, c, d, e = scorer.score_stream(items)
    assert sum(rows) == 2
    assert c == a and c.steps is not a.steps and d.logits != a.logits
    assert b.skipped.startswith("item b: ") and e.skipped.startswith("item e: ")


def test_common_prefix_ends_before_the_first_read_out():
    rows = [Encoded([1, 2, 3, 4], [3]), Encoded([1, 2, 3, 5], [2]), Encoded([1, 2, 9], [2])]
    assert common_prefix(rows) == 2
    assert common_prefix(rows[:2]) == 2  # three tokens are equal, but the third carries a score
    assert common_prefix([rows[0], Encoded([7], [0])]) == 0


def test_prefix_is_not_shared_with_sliding_windows():
    assert can_share(LlamaConfig())
    assert can_share(Qwen2Config(num_hidden_layers=2))
    assert not can_share(Qwen2Config(num_hidden_layers=2, use_sliding_window=True, max_window_layers=1))


def test_model_that_returns_nan_is_reported(tmp_path):
    model, tokenizer = random_model("byte-level", tmp_path)
    model.score.weight.data[0, 0] = float("nan")
    with pytest.raises(BrokenModelError, match="item 0: the model returned NaN"):
        Scorer(model, tokenizer, StepContract("prm")).score("q", [["good step."]])
