"""The target's own answers to training prompts with its hidden states, on disk, as the data of all heads."""

import json
import random
from collections.abc import Iterator, Sequence
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
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request

SAMPLED = 0.2  # share of the answers that are sampled at temperature 1; the others are greedy
TOGETHER = 32  # answers in a batch


class Answer(NamedTuple):
    """A prompt and its answer as token ids, with the target's hidden states (T, D) after each of them but the last."""

    prompt: list[int]
    tokens: list[int]
    hidden: Tensor


class Batch(NamedTuple):
    """Sequences padded on the right: `tokens` (B, T), `hidden` (B, T, D), and `answer` (B, T), True for answers."""

    tokens: Tensor
    hidden: Tensor
    answer: Tensor


@torch.inference_mode()
def answers(model: Model, prompts: Sequence[Sequence[int]], new: int, seed: int = 0) -> Iterator[Answer]:
    """Yield the model's answers of at most `new` tokens to `prompts` (token ids), one in `1 / SAMPLED` sampled."""
    every = round(1 / SAMPLED)
    for start in range(0, len(prompts), TOGETHER):
        group = [(number, list(prompts[number])) for number in range(start, min(start + TOGETHER, len(prompts)))]

        def answered(number: int, prompt: list[int]) -> Answer:
            session = Session(model.engine, remember=True)
            strategy = STRATEGIES.build("temperature:temperature=1" if number % every == every - 1 else "greedy")
            room, tokens = min(new, model.engine.max_len - len(prompt)), list[int]()
            request = Request(tuple(prompt), room, PhiloxStream(seed, prompt, number))
            try:
                for block in strategy.generate(session, request):
                    tokens += block
                    if tokens[-1] in model.eos or len(tokens) >= room:
                        break
                return Answer(prompt, tokens, session.memory.half().cpu().clone())
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

    `hidden` (tokens, D) in float16 is after each token; that after the last token of an answer is unknown, and zero.
    """

    tokens: NDArray[np.int32]
    hidden: NDArray[np.float16]
    bounds: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.bounds)

    def batch(self, numbers: Sequence[int], device: torch.device) -> Batch:
        """Return some answers as a batch."""
        rows = [self.bounds[number] for number in numbers]
        longest = max(int(end - first) for first, _, end in rows)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        hidden = torch.zeros(len(rows), longest, self.hidden.shape[1])
        answer = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, (first, begin, end) in enumerate(rows):
            tokens[row, :end - first] = torch.from_numpy(self.tokens[first:end].astype(np.int64))
            hidden[row, :end - first] = torch.from_numpy(self.hidden[first:end].astype(np.float32))
            answer[row, begin - first:end - first] = True
        return Batch(tokens.to(device), hidden.to(device), answer.to(device))

    def batches(self, size: int, seed: int) -> Iterator[list[int]]:
        """Yield the numbers of `size` answers of similar length, without end."""
        rng, lengths = random.Random(seed), self.bounds[:, 2] - self.bounds[:, 0]
        while True:
            order = sorted(rng.sample(range(len(self)), len(self)), key=lambda one: lengths[one] // 8)
            groups = [order[start:start + size] for start in range(0, len(order), size)]
            rng.shuffle(groups)
            yield from groups


def write(folder: Path, found: Iterator[Answer], limit: int) -> None:
    """Write answers of two tokens or more to a new folder, until their hidden states take `limit` bytes.

    Raises `UserError` if there is no such answer.
    """
    folder.mkdir(parents=True)
    bounds, size = list[tuple[int, int, int]](), 0
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "hidden.bin").open("wb") as hidden:
        for answer in found:
            if len(answer.tokens) < 2:
                continue
            ids, states = np.array([*answer.prompt, *answer.tokens], dtype=np.int32), answer.hidden.numpy()
            states = np.concatenate([states, np.zeros((len(ids) - len(states), states.shape[1]), np.float16)])
            if size + states.nbytes > limit:
                break
            first = bounds[-1][2] if bounds else 0
            bounds.append((first, first + len(answer.prompt), first + len(ids)))
            ids.tofile(tokens)
            states.tofile(hidden)
            size += states.nbytes
    if not bounds:
        raise UserError("No answer has two tokens and fits on disk: raise --budget or --max-new-tokens, or give other "
                        "prompts.")
    width = states.shape[1]
    (folder / "corpus.json").write_text(json.dumps({"bounds": bounds, "width": width}))


def read(folder: Path) -> Corpus:
    """Return the corpus of a folder."""
    about = json.loads((folder / "corpus.json").read_text())
    tokens = np.memmap(folder / "tokens.bin", np.int32, "r")
    hidden = np.memmap(folder / "hidden.bin", np.float16, "r").reshape(-1, about["width"])
    return Corpus(tokens, hidden, np.array(about["bounds"], dtype=np.int64).reshape(-1, 3))
