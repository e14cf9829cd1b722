"""The target's own answers to training prompts with its hidden states, on disk, as the data of all heads."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.hooks import HIDDEN
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request

SAMPLED = 0.2  # share of the answers that are sampled at temperature 1; the others are greedy
TOGETHER = 32  # answers in a batch
TOKENS, BOUNDS = "tokens.bin", "corpus.json"


class Answer(NamedTuple):
    """A prompt and its answer as token ids."""

    prompt: list[int]
    tokens: list[int]


class Batch(NamedTuple):
    """Sequences padded on the right: `tokens` (B, T), hidden states (B, T, D), and `answer` (B, T), True for answers.

    `hidden` are the target's last states, and `states` those that a network reads.
    """

    tokens: Tensor
    hidden: Tensor
    states: Tensor
    answer: Tensor


@torch.inference_mode()
def answers(model: Model, prompts: Sequence[Sequence[int]], new: int, seed: int = 0) -> Iterator[Answer]:
    """Yield the model's answers of at most `new` tokens to `prompts` (token ids), one in `1 / SAMPLED` sampled."""
    every = round(1 / SAMPLED)
    for start in range(0, len(prompts), TOGETHER):
        group = [(number, list(prompts[number])) for number in range(start, min(start + TOGETHER, len(prompts)))]

        def answered(number: int, prompt: list[int]) -> Answer:
            session = Session(model.engine)
            strategy = STRATEGIES.build("temperature:temperature=1" if number % every == every - 1 else "greedy")
            room, tokens = min(new, model.engine.max_len - len(prompt)), list[int]()
            request = Request(tuple(prompt), room, PhiloxStream(seed, prompt, number))
            try:
                for block in strategy.generate(session, request):
                    tokens += block
                    if tokens[-1] in model.eos or len(tokens) >= room:
                        break
                return Answer(prompt, tokens)
            finally:
                session.close()

        jobs = [partial(answered, *one) for one in group]
        for found in run_batched([model.engine], jobs, TOGETHER):
            if isinstance(found, CacheFull):
                raise found
            yield found


@dataclass(frozen=True)
class Corpus:
    """Answers in memory-mapped arrays; `bounds` (N, 3) are the first token, the first of the answer, and the end.

    `states` are hidden states (tokens, D) in float16 after each token, by name; those of `reads` are what a network
    reads.
    """

    tokens: NDArray[np.int32]
    bounds: NDArray[np.int64]
    states: Mapping[str, NDArray[np.float16]]
    reads: tuple[str, ...] = (HIDDEN,)

    def __len__(self) -> int:
        return len(self.bounds)

    def batch(self, numbers: Sequence[int], device: torch.device) -> Batch:
        """Return some answers as a batch."""
        rows = [self.bounds[number] for number in numbers]
        longest = max(int(end - first) for first, _, end in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        answer = torch.zeros(len(rows), longest, dtype=torch.bool)
        found = {name: torch.zeros(len(rows), longest, states.shape[1]) for name, states in self.states.items()}
        for row, (first, begin, end) in enumerate(rows):
            tokens[row, :end - first] = torch.from_numpy(self.tokens[first:end].astype(np.int64))
            answer[row, begin - first:end - first] = True
            for name, states in self.states.items():
                found[name][row, :end - first] = torch.from_numpy(states[first:end].astype(np.float32))
        read = torch.cat([found[name] for name in self.reads], -1)
        return Batch(*(one.to(device) for one in (tokens, found[HIDDEN], read, answer)))

    def batches(self, size: int, seed: int) -> Iterator[list[int]]:
        """Yield the numbers of `size` answers to prompts of similar length, of similar length in all, without end."""
        rng, whole, prompts = random.Random(seed), *(self.bounds[:, end] - self.bounds[:, 0] for end in (2, 1))
        while True:
            order = sorted(rng.sample(range(len(self)), len(self)), key=lambda one: (prompts[one] // 32, whole[one]))
            groups = [order[start:start + size] for start in range(0, len(order), size)]
            rng.shuffle(groups)
            yield from groups


def write(folder: Path, found: Iterator[Answer], limit: int) -> None:
    """Write answers of two tokens or more to a new folder, until they have `limit` tokens with their prompts.

    Raises `UserError` if there is no such answer.
    """
    folder.mkdir(parents=True)
    bounds = list[tuple[int, int, int]]()
    with (folder / TOKENS).open("wb") as tokens:
        for answer in found:
            if len(answer.tokens) < 2:
                continue
            first, size = bounds[-1][2] if bounds else 0, len(answer.prompt) + len(answer.tokens)
            if first + size > limit:
                break
            bounds.append((first, first + len(answer.prompt), first + size))
            np.array([*answer.prompt, *answer.tokens], dtype=np.int32).tofile(tokens)
    if not bounds:
        raise UserError("No answer has two tokens and fits on disk: raise --budget or --max-new-tokens, or give other "
                        "prompts.")
    (folder / BOUNDS).write_text(json.dumps(bounds))


@torch.inference_mode()
def record(folder: Path, model: Model, names: Iterable[str]) -> None:
    """Write the model's hidden states of these names for the answers in a folder, unless they are there."""
    missing = [name for name in names if not _file(folder, name).exists()]
    if not missing:
        return
    known, parts = read(folder), {name: _file(folder, name).with_suffix(".part").open("wb") for name in missing}
    for first, _, end in known.bounds:
        session = Session(model.engine, remember=missing)
        session.follow(known.tokens[first:end].tolist())
        session.read()
        for name, states in session.remembered.items():
            parts[name].write(states.half().cpu().numpy().tobytes())
        session.close()
    for name, part in parts.items():
        part.close()
        Path(part.name).rename(_file(folder, name))


def read(folder: Path, reads: Sequence[str] = ()) -> Corpus:
    """Return the corpus of a folder for a network that reads states of these names."""
    tokens = np.memmap(folder / TOKENS, np.int32, "r")
    names = dict.fromkeys([HIDDEN, *reads]) if reads else ()
    states = {name: np.memmap(_file(folder, name), np.float16, "r").reshape(len(tokens), -1) for name in names}
    return Corpus(tokens, np.array(json.loads((folder / BOUNDS).read_text()), dtype=np.int64), states, tuple(reads))


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(':', '-')}.bin"
