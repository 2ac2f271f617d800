"""Attention in blocks against the eager attention of `transformers`, which multiplies whole matrices."""

import platform
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
)

from reward_models import attention
from reward_models.forward import read_logits, read_prefix

WIDE = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 50, "intermediate_size": 32,
}  # fmt: skip
CONFIGS = {
    "llama, shared heads": LlamaConfig(**WIDE, num_key_value_heads=2),
    "qwen2": Qwen2Config(**WIDE, num_key_value_heads=4),
    "gpt2": GPT2Config(n_embd=16, n_layer=3, n_head=2, vocab_size=50),
    "mistral, window of 20": MistralConfig(**WIDE, num_key_value_heads=2, sliding_window=20),
    "bloom, attention of its own": BloomConfig(hidden_size=16, n_layer=3, n_head=2, vocab_size=50),
}
LINE, PLACE = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([45, 77, 61, 32, 63, 64])


def random_classifier(config, implementation):
    torch.manual_seed(0)
    config.num_labels = 1
    return AutoModelForTokenClassification.from_config(config, attn_implementation=implementation).eval()


@pytest.fixture
def queries(monkeypatch):
    """Number of query tokens of each call of the kernel, rows counted one by one."""
    counted = []
    kernel = attention.scaled_dot_product_attention

    def counting(query, *rest, **options):
        counted.append(query.shape[0] * query.shape[2])
        return kernel(query, *rest, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", counting)
    return counted


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_blocks_give_the_logits_of_eager_attention(name):
    """78 tokens are two blocks of 32 and a rest."""
    eager = random_classifier(CONFIGS[name], "eager")
    ids_BT = torch.randint(50, (3, 78))
    expected = eager(input_ids=ids_BT).logits[:, :, 0][LINE, PLACE]
    implementation = "eager" if name.startswith("bloom") else "sdpa"
    model = random_classifier(CONFIGS[name], implementation)
    model.load_state_dict(eager.state_dict())
    assert torch.allclose(read_logits(model, ids_BT, None, LINE, PLACE), expected, atol=1e-6)
    assert model.config._attn_implementation == implementation
    assert torch.allclose(model(input_ids=ids_BT).logits[:, :, 0][LINE, PLACE], expected, atol=1e-6)  # nothing is left


@pytest.mark.parametrize("name", CONFIGS)
@torch.inference_mode()
def test_blocks_work_under_autocast(name):
    """Queries may be float32 there (rotated by a table that is) where the kernel returns bfloat16."""
    model = random_classifier(CONFIGS[name], "eager" if name.startswith("bloom") else "sdpa")
    ids_BT = torch.randint(50, (3, 78))
    exact = read_logits(model, ids_BT, None, LINE, PLACE)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = read_logits(model, ids_BT, None, LINE, PLACE)
    assert torch.allclose(rounded.float(), exact, atol=0.01) and not torch.equal(rounded.float(), exact)


@pytest.mark.parametrize("name", ["llama, shared heads", "gpt2"])
@torch.inference_mode()
def test_one_prefix_serves_several_batches(name):
    eager = random_classifier(CONFIGS[name], "eager")
    ids_BT = torch.randint(50, (3, 78))
    ids_BT[:, :40] = ids_BT[0, :40]
    line, place = torch.tensor([0, 1, 2]), torch.tensor([41, 77, 75])
    expected = eager(input_ids=ids_BT).logits[:, :, 0][line, place]
    model = random_classifier(CONFIGS[name], "sdpa")
    model.load_state_dict(eager.state_dict())
    prefix = read_prefix(model, ids_BT[:1, :40])
    for rows in ([0, 1, 2], [2], [1, 0]):
        here = torch.arange(len(rows))
        read = read_logits(model, ids_BT[rows], None, here, place[rows], 40, prefix)
        assert torch.allclose(read, expected[rows], atol=1e-6)


@torch.inference_mode()
def test_the_last_layer_attends_from_read_outs_only(queries):
    model = random_classifier(CONFIGS["llama, shared heads"], "sdpa")
    read_logits(model, torch.randint(50, (3, 78)), None, LINE, PLACE)
    blocks = [3 * 32, 3 * 32, 3 * 14]
    assert queries == [*blocks, *blocks, 3 * 3]  # three read-outs at most in a row


@torch.inference_mode()
def test_a_padding_mask_is_kept(queries):
    model = random_classifier(CONFIGS["llama, shared heads"], "sdpa")
    ids_BT, mask_BT = torch.randint(50, (1, 40)), torch.ones(1, 40, dtype=torch.long)
    mask_BT[0, :8] = 0
    read = read_logits(model, ids_BT, mask_BT, torch.tensor([0]), torch.tensor([39]))
    assert torch.allclose(read, model(input_ids=ids_BT, attention_mask=mask_BT).logits[0, 39], atol=1e-6)
    assert not queries  # the kernel of `transformers` did it


FAULTS = """
import resource, sys, torch
from transformers import LlamaConfig, LlamaForTokenClassification
from tokenizers_for_tests import byte_level_bpe
from reward_models.contract import StepContract
from reward_models.score import Scorer

tokenizer = byte_level_bpe()
config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                     num_attention_heads=1, num_labels=1)
scorer = Scorer(LlamaForTokenClassification(config), tokenizer, StepContract("prm"))
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [torch.ones(2**19) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about the allocator of glibc")
def test_freed_activations_stay_mapped(request):
    """20 times four blocks of 2 MiB are 40,960 pages of 4 KiB; a process that reuses them touches none anew."""
    folder = request.path.parent
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=folder, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 4096
