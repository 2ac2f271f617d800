"""PPO, sampling and scoring in a process of their own; prints the peak of each phase, in bytes, as JSON.

A peak is what the process needed beyond what it held before the models were made. Arguments: variants, see `VARIANTS`.
"""

import contextlib
import ctypes
import gc
import json
import sys
import tempfile
from pathlib import Path

import torch
from memory_worker import peak as highest
from memory_worker import resident
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification, PreTrainedTokenizerFast

from reward_models import score as scores
from reward_models.contract import StepContract
from reward_models.lora import with_lora
from reward_models.settings import LoraSettings
from rlhf_e2h.data.tokenizers import BUILDERS
from rlhf_e2h.parallel.gathering import start_accelerator
from rlhf_e2h.rl import chunked_logits, ppo
from rlhf_e2h.rl.ppo_settings import PPOSettings
from rlhf_e2h.rl.rewards import Reward
from rlhf_e2h.rl.rollout import generate
from rlhf_e2h.rl.value_model import train_parts
from rlhf_e2h.training.precision import hold_frozen

VARIANTS = {"float32": {}, "bf16": {"bf16": True}, "lora": {"r": 8, "bf16": True}}
SMALL = {"vocab_size": 512, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
LARGE = {"vocab_size": 16384, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4}
PROMPT, COMPLETION, ROWS = 16, 48, 8
PPO = PPOSettings(
    steps=2, rollouts=2 * ROWS, num_mini_batches=2, per_device_train_batch_size=ROWS, forward_batch=ROWS,
    generation_batch=2 * ROWS,
    max_new_tokens=COMPLETION, save_steps=1, warmup_steps=0, learning_rate=1e-6,
)  # fmt: skip
chunked_logits.CHUNK = ROWS * COMPLETION * LARGE["vocab_size"] // 4  # four chunks of a micro-batch
chunked_logits.BLOCK = chunked_logits.CHUNK  # at once, as on a GPU
SCORED = 8192  # tokens at once, as on a GPU; a CPU takes fewer for the sake of its caches


def configuration(shape, **changes):
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "num_labels": 1}
    return LlamaConfig(**{**shape, **heads, "tie_word_embeddings": True, "eos_token_id": None, **changes})


def tokenizer(shape):
    """One of as many words as the model has embeddings, so that few of them are the end of a text."""
    named = {"<end>": 0, "<unknown>": 1, **{f"w{number}": number for number in range(2, shape["vocab_size"])}}
    core = Tokenizer(models.WordLevel(named, unk_token="<unknown>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<end>", unk_token="<unknown>")


def text(tokens, start=2):
    return " ".join(f"w{number}" for number in range(start, start + tokens))


class Meter:
    """Peaks by phase; the last one of each counts, since Adam's moments are there from the second step on."""

    def __init__(self):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        self.before, self.found = resident(), {}

    @contextlib.contextmanager
    def phase(self, name):
        resident()
        yield
        self.note(name)

    def note(self, name):
        self.found[name] = highest() - self.before
        resident()

    def wrap(self, function, name):
        def measured(*args, **options):
            with self.phase(name):
                return function(*args, **options)

        return measured


def train(shape, variant, meter):
    torch.manual_seed(0)
    policy = LlamaForCausalLM(configuration(shape))
    value = LlamaForTokenClassification(configuration(shape))
    reference = None if variant.get("r") else LlamaForCausalLM(configuration(shape))
    policy = with_lora(policy, LoraSettings(variant.get("r", 0)))
    value = train_parts(value, False, LoraSettings(variant.get("r", 0)))
    for model in (policy, value) if variant.get("r") else ():  # as the stage does
        hold_frozen(model, variant.get("bf16", False), always_autocast=True)
    if reference is not None:
        hold_frozen(reference.requires_grad_(False), variant.get("bf16", False), linear_only=True)
    accelerator = start_accelerator(bf16=variant.get("bf16", False))
    step = torch.optim.AdamW.step

    def stepped(self, closure=None):
        meter.note("forward and backward")
        result = step(self, closure)
        meter.note("optimiser step")
        return result

    originals = ppo.sample_step, ppo.evaluate, ppo.save
    ppo.sample_step = meter.wrap(originals[0], "rollout")
    ppo.evaluate = meter.wrap(originals[1], "log-probabilities")
    ppo.save = meter.wrap(originals[2], "checkpoint")
    torch.optim.AdamW.step = stepped
    try:
        with tempfile.TemporaryDirectory() as folder:
            prompts = [{"prompt": text(PROMPT)}] * 4
            ppo.train_ppo(
                policy, reference, value, tokenizer(shape), prompts, lambda cs: [Reward(outcome=1.0) for _ in cs], PPO,
                accelerator, checkpoint_dir=Path(folder),
            )  # fmt: skip
    finally:
        ppo.sample_step, ppo.evaluate, ppo.save = originals
        torch.optim.AdamW.step = step


def sample(shape, meter):
    """The sampling of banks: a bf16 policy, n samples of a prompt."""
    model, words = LlamaForCausalLM(configuration(shape)).to(torch.bfloat16), tokenizer(shape)
    with meter.phase("sampling"):
        generate(model, words, [text(15)] * 4, n=16, max_new_tokens=96, batch_size=64)


def score(shape, meter):
    model = LlamaForTokenClassification(configuration(shape)).to(torch.bfloat16).eval()
    scores.CPU_TOKENS = SCORED
    scorer = scores.Scorer(model, BUILDERS["procedural"](), StepContract("prm"), max_tokens_per_batch=SCORED)
    steps = [[f"p=q+{number};" * 40] for number in range(64)]  # the same text would be read once
    with meter.phase("scoring"):
        scorer.score_texts(["p=q?"] * len(steps), steps)


def run(name, shape):
    meter = Meter()
    if name == "sampling":
        sample(shape, meter)
    elif name == "scoring":
        score(shape, meter)
    else:
        train(shape, VARIANTS[name], meter)
    return meter.found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for name in sys.argv[1:]:
        run(name, SMALL)  # imports, and what libraries keep for themselves
        if name != "float32":
            run(name, LARGE)  # oneDNN keeps something for each shape of a bf16 product
        found[name] = run(name, LARGE)
    print(json.dumps(found))
