"""Training documents: the tokens of a problem with their loss weights, in batches of similar length."""

import random
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from harness.nano.corpus import KINDS, problems
from harness.nano.problem import Problem
from harness.nano.tokenizer import END, chat_prefix

PROMPT_WEIGHT = 0.1
ANSWER_WEIGHT = dict.fromkeys(KINDS, 1.0) | {"chat": 2.0}  # answers in chats are short


class Document(NamedTuple):
    """Token ids and the loss weight of each token, in arrays, because lists need ten times the memory."""

    ids: "array[int]"
    weights: "array[float]"

    def add(self, tokens: Sequence[int], weight: float) -> None:
        """Append tokens that count `weight` each."""
        self.ids.extend(tokens)
        self.weights.extend([weight] * len(tokens))


def empty() -> Document:
    """Return an empty document."""
    return Document(array("H"), array("f"))


class Batch(NamedTuple):
    """Token ids and loss weights, both [documents, longest]; padding has weight 0."""

    ids: torch.Tensor
    weights: torch.Tensor

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch on another device."""
        return Batch(self.ids.to(device), self.weights.to(device))


def prompt_text(prompt: str, kind: str) -> str:
    """Return the text of one turn for the model."""
    return chat_prefix(prompt) if kind == "chat" else prompt


def parts(problem: Problem, kind: str) -> list[tuple[str, float]]:
    """Return the pieces of text of one problem, each with its weight in the loss."""
    pieces = []
    for prompt, answer in zip(problem.turns, problem.answers, strict=True):
        pieces.append((prompt_text(prompt, kind), PROMPT_WEIGHT))
        pieces.append((answer, ANSWER_WEIGHT[kind]))
        pieces.append((END, ANSWER_WEIGHT[kind]))
    return pieces


def documents(split: str, counts: dict[str, int], seed: int, tokenizer: PreTrainedTokenizerFast) -> list[Document]:
    """Return one document for each problem, `counts[kind]` of each kind, in random order."""
    found: list[Document] = []
    for kind, count in counts.items():
        chosen = problems(kind, split, count, seed)
        for start in range(0, len(chosen), 1000):
            found += _encoded([parts(problem, kind) for problem in chosen[start : start + 1000]], tokenizer)
    random.Random(seed).shuffle(found)
    return found


def _encoded(pieces: list[list[tuple[str, float]]], tokenizer: PreTrainedTokenizerFast) -> Iterator[Document]:
    encoded = iter(tokenizer([text for piece in pieces for text, _ in piece]).input_ids)
    for piece in pieces:
        document = empty()
        for _, weight in piece:
            document.add(next(encoded), weight)
        yield document


def batches(found: list[Document], tokens: int, seed: int) -> Iterator[Batch]:
    """Yield batches of about `tokens` tokens without end, of documents of similar length in random order."""
    for group in grouped([len(document.ids) for document in found], tokens, seed):
        yield padded([found[place] for place in group])


def grouped(lengths: Sequence[int], tokens: int, seed: int) -> Iterator[list[int]]:
    """Yield places in `lengths` without end, in groups of similar lengths and about `tokens` tokens, at random."""
    rng = random.Random(seed)
    while True:
        order = sorted(rng.sample(range(len(lengths)), len(lengths)), key=lambda place: lengths[place] // 4)
        groups: list[list[int]] = [[]]
        for place in order:
            if groups[-1] and (len(groups[-1]) + 1) * lengths[place] > tokens:
                groups.append([])
            groups[-1].append(place)
        rng.shuffle(groups)
        yield from groups


def padded(group: list[Document]) -> Batch:
    """Return the documents as one batch, padded on the right."""
    longest = max(len(document.ids) for document in group)
    ids = [[*document.ids] + [0] * (longest - len(document.ids)) for document in group]
    weights = [[*document.weights] + [0.0] * (longest - len(document.weights)) for document in group]
    return Batch(torch.tensor(ids), torch.tensor(weights))
