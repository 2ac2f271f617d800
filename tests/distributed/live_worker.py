"""Fine-tunes three times in turn, as rounds do, and says how many bytes of tensors are alive after each."""

import gc
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch

from rlhf_e2h.parallel.processes import is_main, leave, release_memory
from rlhf_e2h.training.arguments import TrainingSettings
from rlhf_e2h.training.finetune import finetune
from rlhf_e2h.training.models import ModelShape, new_llama

SHAPE = ModelShape(hidden=64, layers=3, intermediate=128, heads=4, max_positions=256)
ROWS = [{"prompt": "# Question\n\n1+2\n\n# Solution\n\n", "completion": str(i)} for i in range(16)]


class Run:
    """As much of a stage's run as fine-tuning needs."""

    name, seed, is_main = "live", 0, is_main()
    log = spend = finish = staticmethod(lambda *_, **__: None)

    def __init__(self, folder):
        self.scratch = self.out = Path(folder)

    @contextmanager
    def progress(self, *_):
        yield SimpleNamespace(update=lambda _: None)


def live_bytes():
    """Of all tensors that Python knows, each storage once."""
    release_memory()
    found = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter):
            storage = one.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def a_round(folder):
    """The bytes of the model that it trained."""
    model, _ = finetune(
        *new_llama(SHAPE, "procedural", 0),
        ROWS,
        TrainingSettings(batch_size=4, per_device_train_batch_size=2),
        Run(folder),
    )
    return sum(parameter.numel() * 4 for parameter in model.parameters())


if __name__ == "__main__":
    torch.set_num_threads(1)
    live = [live_bytes()]
    for number in range(3):
        size = a_round(Path(sys.argv[1]) / str(number))
        live.append(live_bytes())
    for found in live:
        print(f"LIVE {size} {found}", flush=True)
    leave(0)
