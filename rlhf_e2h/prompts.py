"""The only module that knows prompt and step text.

The default format is the paper's (Sun et al. 2024, arXiv 2403.09472, section 3 and appendix C):

    # Question\\n\\n{problem}\\n\\n# Solution\\n\\n{step}\\n\\n{step}\\n\\n# Answer\\n\\n{answer}<eos>

The answer section counts as the last step, so that a process reward model scores it too (appendix L).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SEPARATOR = "\n\n"
ANSWER_MARK = "# Answer"


@dataclass(frozen=True)
class TextFormat:
    """How a problem becomes a prompt and a solution becomes steps; frozen, so that it can be a constant."""

    name: str
    template: str  # with {problem}
    separator: str = SEPARATOR
    answer_mark: str = ANSWER_MARK

    def prompt(self, problem: str) -> str:
        return self.template.replace("{problem}", problem)

    def solution(self, steps: Sequence[str], answer: str) -> str:
        """The completion that follows `prompt`, without end-of-sequence token."""
        return self.separator.join([*steps, f"{self.answer_mark}{self.separator}{answer}"])

    def split_steps(self, text: str) -> list[str]:
        """Steps of a completion; joining them with the separator gives the text again.

        The answer mark and the answer stay together as the last step. Empty steps are kept: a policy that writes them
        must be seen to do so. The empty completion is one empty step.
        """
        head, mark, tail = text.partition(self.answer_mark)
        if not mark or (head and not head.endswith(self.separator)):
            return text.split(self.separator)
        steps = head[: -len(self.separator)].split(self.separator) if head else []
        return [*steps, mark + tail]

    def step_ends(self, text: str) -> list[int]:
        """Character offset in `text` at which each step ends (exclusive), shape (S,)."""
        ends, position = [], 0
        for step in self.split_steps(text):
            position += len(step)
            ends.append(position)
            position += len(self.separator)
        return ends

    def answer(self, text: str) -> str | None:
        """The text after the only answer mark; None without a mark, with several, or with nothing behind it."""
        if text.count(self.answer_mark) != 1:
            return None
        return text.partition(self.answer_mark)[2].strip() or None


SECTIONS = TextFormat("sections", f"# Question{SEPARATOR}{{problem}}{SEPARATOR}# Solution{SEPARATOR}")

FORMATS = {SECTIONS.name: SECTIONS}


def few_shot(exemplars: Sequence[tuple[str, str]], end: str, text_format: TextFormat = SECTIONS) -> str:
    """The text that goes before every prompt of an in-context baseline: (problem, solution) pairs, each with `end`."""
    return "".join(text_format.prompt(problem) + solution + end for problem, solution in exemplars)
