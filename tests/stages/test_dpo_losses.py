"""The losses that `dpo` composes from TRL's, computed by TRL's own trainer and by hand on one batch of pairs."""

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer

from rlhf_e2h.stages.dpo import trl_losses
from rlhf_e2h.training.models import ModelShape, new_llama

PROMPT = "# Question\n\na=1+2;a=?\n\n# Solution\n\n"
CHOSEN, REJECTED = "a=1+2=3\n\n# Answer\n\n3", "a=1+2=4"
BETA, SMOOTHING, NLL = 0.3, 0.2, 0.5


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(policy, reference, tokenizer, log-probabilities of the policy, of the reference, tokens) for one pair."""
    shape = ModelShape(hidden=16, layers=1, intermediate=32, heads=2, max_positions=128)
    policy, tokenizer = new_llama(shape, "procedural", seed=0)
    reference, _ = new_llama(shape, "procedural", seed=1)
    with torch.no_grad():  # far apart, so that no loss is near its value at 0
        policy.lm_head.weight.mul_(20)
    policy_logps, counts = _logps(policy, tokenizer)
    return policy, reference, tokenizer, policy_logps, _logps(reference, tokenizer)[0], counts


@torch.no_grad()
def _logps(model, tokenizer):
    """Summed log-probability of both completions with their end of sequence, by plain forward passes."""
    found, counts = [], []
    prompt = tokenizer(PROMPT, add_special_tokens=False)["input_ids"]
    for text in (CHOSEN, REJECTED):
        completion = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        logprobs = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        found.append(logprobs.gather(-1, torch.tensor(completion)[:, None]).sum())
        counts.append(len(completion))
    return torch.stack(found), counts


def _expected(loss, policy, reference, counts):
    """From the papers: Rafailov 2023 eq. 7; Mitchell 2023 (cDPO); Azar 2023 eq. 17, per token; the easy-to-hard
    paper's code for rpo; Pang 2024 eq. 1; Chowdhury 2024 eq. 12 (robust)."""
    ratios = policy - reference
    h = ratios[0] - ratios[1]
    mean_h = ratios[0] / counts[0] - ratios[1] / counts[1]
    right, flipped = -logsigmoid(BETA * h), -logsigmoid(-BETA * h)
    return {
        "sigmoid": right,
        "cdpo": (1 - SMOOTHING) * right + SMOOTHING * flipped,
        "robust": ((1 - SMOOTHING) * right - SMOOTHING * flipped) / (1 - 2 * SMOOTHING),
        "ipo": (mean_h - 1 / (2 * BETA)) ** 2,
        "rpo": 0.5 * ((ratios[0] - 0.5 / BETA) ** 2 + (ratios[1] + 0.5 / BETA) ** 2),
        "rpo_nll": right - NLL * policy[0] / counts[0],
        "sigmoid_norm": -logsigmoid(BETA * mean_h),
    }[loss]


@pytest.mark.parametrize("loss", ["sigmoid", "cdpo", "robust", "ipo", "rpo", "rpo_nll", "sigmoid_norm"])
def test_loss_by_hand(pair, tmp_path, loss):
    policy, reference, tokenizer, policy_logps, reference_logps, counts = pair
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        beta=BETA,
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_length=128,
        per_device_train_batch_size=1,
        **trl_losses(loss, SMOOTHING if loss in ("cdpo", "robust") else 0.0, NLL),
    )
    row = {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED}
    trainer = DPOTrainer(
        model=policy,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer,
    )
    policy.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        found = trainer.compute_loss(trainer.model, batch)
    torch.testing.assert_close(
        found.cpu(), _expected(loss, policy_logps, reference_logps, counts), atol=1e-4, rtol=1e-4
    )
