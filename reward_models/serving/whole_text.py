"""Whole texts, as trainers and chat clients send them, taken apart into problem and steps."""

from __future__ import annotations

from collections.abc import Sequence

from reward_models.chat_markers import left_markers, unwrap_chat, unwrap_prompt, without_special
from reward_models.contract import PROBLEM_SLOT, StepContract
from reward_models.messages import last_exchange
from reward_models.readout import is_unsplit, split_steps
from reward_models.serving.request import BadRequestError, Body, Item, texts_of
from reward_models.step_text import normalise_newlines


def whole_items(
    texts: Sequence[str], prompts: Sequence[str | None], contract: StepContract, special: Sequence[str], name: str
) -> list[Item]:
    """(problem, steps) of each text; its prompt, where there is one, says where the solution begins.

    `special` are token texts (BOS, EOS, pad) that clients leave at the ends; `name` is the field, for the messages.

    Raises:
        BadRequestError: problem and solution cannot be told apart.
    """
    advice = "`prompts` as well" if name == "query" else "problem and solution as `messages`"
    return [
        _split_whole(
            _plain(text, special), prompt and _plain(str(prompt), special), contract, f"{name} {place}", advice
        )
        for place, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
    ]


def input_items(body: Body, contract: StepContract, special: Sequence[str]) -> list[Item]:
    """vLLM's `input` (a whole text, or a list of them), or `messages` that end with the solution."""
    if "messages" not in body:
        texts = texts_of(body, "input")
        return whole_items(texts, [None] * len(texts), contract, special, "input")
    try:
        exchange = last_exchange(body["messages"])
    except ValueError as error:
        raise BadRequestError(f"'messages': {error}") from None
    if not exchange.reply.strip():
        raise BadRequestError("'messages' must end with the solution, as a message of the assistant")
    return [(normalise_newlines(exchange.problem), split_steps(contract, normalise_newlines(exchange.reply)))]


def count_unsplit(items: Sequence[Item], contract: StepContract) -> int:
    """Texts of several lines that are one step. A refusal would end the training that asks; the server counts them."""
    return sum(len(steps) == 1 and is_unsplit(contract, steps[0]) for _, steps in items)


def _split_whole(text: str, prompt: str | None, contract: StepContract, place: str, advice: str) -> Item:
    try:
        problem, solution = _whole(text, prompt, contract)
    except ValueError as error:
        raise BadRequestError(f"{place} {error}; send it so, or send {advice}") from None
    for part in (problem, solution):
        if marker := left_markers(part):
            raise BadRequestError(
                f"{place} has {marker!r} inside, so problem and solution cannot be told apart; send plain text, and "
                f"{advice}"
            )
    return problem, split_steps(contract, solution)


def _whole(text: str, prompt: str | None, contract: StepContract) -> tuple[str, str]:
    """(problem, solution) of a query: our template, a chat template, a policy's prompt, or what `prompt` says."""
    before, after = contract.template.split(PROBLEM_SLOT, 1)
    known = prompt and text.startswith(prompt)
    head = prompt if prompt and known else text  # where the problem is looked for
    cut = head.rfind(after) if known else head.find(after, len(before))
    if head.startswith(before) and after and cut >= len(before):
        problem, reply = head[len(before) : cut], head[cut + len(after) :]
    elif (talk := unwrap_chat(head)) is not None:
        problem, reply = _bare(talk.problem, before, after), talk.reply
    elif (parts := unwrap_prompt(head)) is not None:
        problem, reply = parts
    elif known:
        problem, reply = head, ""
    else:
        raise ValueError(f"does not have the form {contract.template!r}")
    return problem, text[len(head) :] if known else reply


def _bare(problem: str, before: str, after: str) -> str:
    """A problem without the policy's prompt around it: some trainers put one inside the user's message."""
    if problem.startswith(before) and problem.endswith(after.rstrip()) and after:
        return problem[len(before) : len(problem) - len(after.rstrip())]
    parts = unwrap_prompt(problem + "\n\n")
    return parts[0] if parts and not parts[1].strip() else problem


def _plain(text: str, special: Sequence[str]) -> str:
    return without_special(normalise_newlines(text), special)
