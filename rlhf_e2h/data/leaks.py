"""Near-duplicates between two sets of problems: an exact similarity join, so every pair above the threshold is found.

Two texts are compared by the Jaccard similarity of their sets of 3-token shingles. The join uses the prefix filter of
Chaudhuri, Ganti and Kaushik (ICDE 2006): sort each set by rarity; two sets with similarity >= t share at least one of
the rarest |x| - ceil(t |x|) + 1 members, so only texts that share one of these need be compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlhf_e2h.data.levels import problem_key

SHINGLE = 3
_TOKEN = re.compile(r"\\[a-zA-Z]+|[^\W\d_]+|\d+|[^\w\s]|_")
_NUMBER = re.compile(r"\d+")

KINDS = ("exact", "spacing or case", "near", "same but for numbers")


@dataclass(frozen=True)
class Leak:
    """A problem of the left set (train) that resembles one of the right set (test)."""

    left_id: str
    right_id: str
    similarity: float  # of the texts, 0-1; below the threshold where only the texts without numbers are similar
    kind: str  # one of KINDS


def find_leaks(left: Sequence[tuple[str, str]], right: Sequence[tuple[str, str]], threshold: float = 0.8) -> list[Leak]:
    """All pairs (id, text) of `left` and `right` that are similar as they stand, or once numbers are masked.

    "near" pairs have a similarity of at least `threshold`; pairs "same but for numbers" reach it only after every
    number is replaced by one sign: the same exercise with other values, a leak of the method and not of the answer.
    Sorted by similarity, highest first, then by id.

    Raises:
        ValueError: the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not allowed; use a similarity above 0 and at most 1")
    left_texts, right_texts = ([text for _, text in side] for side in (left, right))
    plain = similar_pairs(left_texts, right_texts, threshold)
    masked = similar_pairs(map(_without_numbers, left_texts), map(_without_numbers, right_texts), threshold)
    leaks = []
    for i, j in plain.keys() | masked.keys():
        (left_id, left_text), (right_id, right_text) = left[i], right[j]
        kind = KINDS[2] if (i, j) in plain else KINDS[3]
        if left_text == right_text:
            kind = KINDS[0]
        elif problem_key(left_text) == problem_key(right_text):
            kind = KINDS[1]
        similarity = plain.get((i, j)) or jaccard(shingles(left_text), shingles(right_text))
        leaks.append(Leak(left_id, right_id, round(similarity, 4), kind))
    return sorted(leaks, key=lambda leak: (-leak.similarity, leak.left_id, leak.right_id))


def _without_numbers(text: str) -> str:
    return _NUMBER.sub("0", text)


def similar_pairs(left: Iterable[str], right: Iterable[str], threshold: float) -> dict[tuple[int, int], float]:
    """Jaccard similarity of every pair (index in left, index in right) that reaches the threshold."""
    sets = [[shingles(text) for text in side] for side in (left, right)]
    frequency = Counter(shingle for side in sets for members in side for shingle in members)
    index: dict[str, list[int]] = defaultdict(list)
    for j, members in enumerate(sets[1]):
        for shingle in _prefix(members, frequency, threshold):
            index[shingle].append(j)
    pairs = {}
    for i, members in enumerate(sets[0]):
        candidates = {j for shingle in _prefix(members, frequency, threshold) for j in index.get(shingle, ())}
        for j in candidates:
            similarity = jaccard(members, sets[1][j])
            if similarity >= threshold:
                pairs[i, j] = similarity
    return pairs


def shingles(text: str) -> frozenset[str]:
    """The set of runs of three tokens (words, LaTeX commands, numbers, signs; no case); a shorter text is one run."""
    tokens = _TOKEN.findall(text.casefold())
    starts = range(max(1, len(tokens) - SHINGLE + 1))
    return frozenset(" ".join(tokens[start : start + SHINGLE]) for start in starts)


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Size of the intersection over the size of the union; 1 for two empty sets."""
    common = len(left & right)
    union = len(left) + len(right) - common
    return common / union if union else 1.0


def _prefix(members: frozenset[str], frequency: Counter[str], threshold: float) -> list[str]:
    """The rarest members, of which similar sets must share one; ties are broken by text, alike on both sides."""
    length = len(members) - math.ceil(threshold * len(members) - 1e-9) + 1
    return sorted(members, key=lambda shingle: (frequency[shingle], shingle))[:length]
