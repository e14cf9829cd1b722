"""A server that drafts, scripted for `tests.completions`: a small language model, and faults of its verification."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.completions import Body, Server, serving
from tests.models import EOS

TOKENS = (EOS, *range(5, 45))  # the vocabulary: EOS and printable characters
DRAFTED = 2  # tokens of a draft; a chunk has one more
FAULTS = {
    "cold": "the temperature is ignored for drafted tokens",
    "no end": "EOS in a draft is dropped, and the answer goes on",
    "past the end": "the answer goes on after EOS in a draft",
    "wrong": "a drafted token is accepted although it is the fourth likeliest",
    "near": "a drafted token is accepted although it is the second likeliest, by 0.2",
    "other": "the log-probs are those at temperature 0.25",
}


@cache
def logits(last: int, place: int) -> NDArray[np.float64]:
    """Return the logits of `TOKENS` after a token at a place of the answer, with distinct values."""
    rng = np.random.default_rng([last, place])
    values = rng.permutation(len(TOKENS)) * -0.2 + rng.random() * 0.05
    values[0] = values.max() + 0.3 if place > 3 and rng.random() < 0.25 else -8.0
    return values


def log_p(last: int, place: int, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return log-probs of `TOKENS`."""
    scaled = logits(last, place) / temperature
    return np.asarray(scaled - np.log(np.exp(scaled).sum()))


def last_of(body: Body) -> int:
    """Return what the answer begins after: prompts of ids and of text are alike."""
    return len(body["prompt"])


def answer(body: Body, fault: str = "") -> list[list[int]]:
    """Return the chunks of an answer; all but the last token of a chunk after the first were drafted."""
    rng, last, ids, chunks = np.random.default_rng(body["seed"]), last_of(body), list[int](), list[list[int]]()
    room, ended = body["max_tokens"], False
    while len(ids) < room and not ended:
        chunk = list[int]()
        for place in range(1 if not chunks else min(DRAFTED + 1, room - len(ids))):
            drafted = bool(chunks) and place < DRAFTED
            token = _next(body, last, len(ids) + len(chunk), fault if drafted else "", rng)
            if token == EOS and drafted and fault == "no end":
                token = TOKENS[1]
            last = token
            chunk.append(token)
            ended = token == EOS and not (drafted and fault == "past the end")
            if ended:
                break
        ids, chunks = [*ids, *chunk], [*chunks, chunk]
    return chunks


def _next(body: Body, last: int, place: int, fault: str, rng: np.random.Generator) -> int:
    """Choose a token; each takes one random number, whether it is drafted or not."""
    values, u, temperature = log_p(last, place), rng.random(), body["temperature"]
    order = np.argsort(-values)
    if not temperature or fault == "cold":
        rank = {"wrong": 3, "near": 1}.get(fault, 0) if place % 5 == 4 and order[0] else 0
        return TOKENS[order[rank]]
    p = np.exp(log_p(last, place, temperature))[order]
    p[np.cumsum(p) - p >= body["top_p"]] = 0
    return TOKENS[order[min(int((np.cumsum(p / p.sum()) < u).sum()), len(order) - 1)]]


def drafting(fault: str = "", **script: Any) -> AbstractContextManager[Server]:
    """Run a server that drafts, with a fault unless a request says `"drafts": false`."""
    def here(body: Body) -> str:
        return fault if body.get("drafts", True) else ""

    def tops(body: Body, ids: Sequence[int]) -> list[dict[int, float]]:
        hot = 0.25 if here(body) == "other" else 1.0
        before = [last_of(body), *ids[:-1]]
        return [dict(zip(TOKENS, log_p(last, place, hot).tolist(), strict=True)) for place, last in enumerate(before)]
    return serving(**{"say": lambda body: answer(body, here(body)), "tops": tops, **script})
