import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from tokenizers_for_tests import byte_level_bpe, tiny_llama

from reward_models.records import Stepwise
from reward_models.train import TrainSettings, train

torch.set_num_threads(1)


def words_task(count: int, seed: int) -> list[Stepwise]:
    """Steps are 'good step.' or 'bad step.'; a solution is right if no step is bad. Nothing else tells them apart."""
    rng = random.Random(seed)
    records = []
    for _ in range(count):
        labels = [int(rng.random() < 0.7) for _ in range(rng.randint(1, 4))]
        steps = ["good step." if label else "bad step." for label in labels]
        records.append(Stepwise(f"What is {rng.randint(1, 9)}?", steps, list(labels), int(all(labels))))
    return records


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A tiny random language model with a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_level_bpe()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


FAST = TrainSettings(learning_rate=1e-2, num_train_epochs=3, batch_size=16, max_length=128)


LEARN = replace(FAST, num_train_epochs=20)


def train_on_words(base, out, kind):
    records = words_task(160, seed=1)
    return train(base, records, kind, out, LEARN, validation=words_task(60, seed=2))


@pytest.fixture(scope="session")
def prm(base, tmp_path_factory):
    """A process reward model that has learned good from bad, and what `train` returned."""
    folder = tmp_path_factory.mktemp("prm")
    return folder, train_on_words(base, folder, "prm")


@pytest.fixture(scope="session")
def orm(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("orm")
    return folder, train_on_words(base, folder, "orm")
