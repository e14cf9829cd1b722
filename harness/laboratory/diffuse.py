"""Trains `nano-diffusion`: nano's weights, changed so that they fill masks in any order.

    python -m harness.laboratory.diffuse --out FOLDER [--steps 3000] [--rate 2e-3] [--seed 0]

The loss is that of LLaDA (Nie et al. 2025, arXiv 2502.09992): tokens of the answer are masked with a chance that is
drawn anew for each text, and the cross-entropy of each mask counts one over that chance. Logits stay shifted as in
Dream (arXiv 2508.15487), so nano goes on predicting the next token. Each step reads a batch in which all tokens attend
to all others, and one with blocks, noised and clean side by side (block diffusion, arXiv 2503.09573), so one set of
weights serves every cache mode. The same command goes on with a training that was stopped.
"""

import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from harness import nano
from harness.errors import program
from harness.laboratory.pairs import Pair, pairs
from harness.laboratory.resumable import Training, parser, run
from harness.nano import packed
from harness.nano.corpus import LIST
from harness.nano.documents import grouped

COUNTS = {"math": 35_000, "edit": 40_000, "summary": 16_000, LIST: 20_000}
BLOCK, TOKENS, BLOCK_TOKENS = 16, 2048, 1536
LEAST = 1 / 32  # chance of a mask
LONGER = (0, 0, 16, 32, 64, 96)  # masks behind the block in which an answer ends, where all tokens see all
HELD_OUT = 100  # texts of each kind


class Masked:
    """Texts (B, N) with the places (B, N) that are masks, and what each of them counts in the loss."""

    def __init__(self, group: list[Pair], end: int, rng: random.Random, chances: torch.Generator, blocks: bool) -> None:
        sizes = [-(-(len(one.source) + len(one.target)) // BLOCK) * BLOCK + (0 if blocks else rng.choice(LONGER))
                 for one in group]
        longest = max(sizes)
        self.ids = torch.tensor([[*one.source, *one.target] + [end] * (longest - len(one.source) - len(one.target))
                                 for one in group])
        place, size = torch.arange(longest)[None], torch.tensor(sizes)[:, None]
        answer = (place >= torch.tensor([len(one.source) for one in group])[:, None]) & (place < size)
        columns = longest // BLOCK if blocks else 1  # each block has a chance of its own
        drawn = (torch.rand((), generator=chances) + torch.arange(len(group) * columns) / (len(group) * columns)) % 1
        drawn = drawn[torch.randperm(len(drawn), generator=chances)].view(len(group), columns)
        chance = (LEAST + (1 - LEAST) * drawn).repeat_interleave(longest // columns, 1)
        self.masked = answer & (torch.rand(self.ids.shape, generator=chances) < chance)
        self.weights = (self.masked / chance)
        self.counted, self.inside, self.blocks = float(answer.sum()), place < size, blocks


def fill_loss(model: LlamaForCausalLM, batch: Masked, mask: int) -> Tensor:
    """Return the weighted sum of the cross-entropy of the masks of a batch."""
    noised, size = batch.ids.masked_fill(batch.masked, mask), batch.ids.shape[1]
    place = torch.arange(size)
    if batch.blocks:
        read, positions = torch.cat([noised, batch.ids], 1), place.repeat(2)[None]
        seen = packed_mask(size)[None, None]
    else:
        read, positions = noised, place[None]
        seen = batch.inside[:, None, None, :].expand(-1, 1, size, -1)
    additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.bfloat16).min)
    rows, columns = batch.masked.nonzero(as_tuple=True)
    lead = columns - 1 + size * (batch.blocks * (columns % BLOCK == 0))  # the block before is clean
    with torch.autocast("cpu", torch.bfloat16):
        states = model.model(input_ids=read, position_ids=positions, attention_mask=additive.bfloat16(),
                             use_cache=False).last_hidden_state[rows, lead]
        logits = model.lm_head(states)
    losses = functional.cross_entropy(logits.float()[:, :mask], batch.ids[rows, columns], reduction="none")
    return (losses * batch.weights[rows, columns]).sum()


def packed_mask(size: int) -> Tensor:
    """Return which of the `size` noised and `size` clean tokens each of them sees, (2N, 2N).

    A noised token sees its own noised block and the clean ones before it, a clean token the clean ones up to its own.
    """
    block = torch.arange(size) // BLOCK
    earlier, own = block[:, None] > block, block[:, None] == block
    return torch.cat([torch.cat([own, earlier], 1), torch.cat([torch.zeros_like(own), earlier | own], 1)])


def start(tokenizer: Any) -> LlamaForCausalLM:
    """Return nano with one more token, the mask."""
    model = LlamaForCausalLM.from_pretrained(nano.weights("nano"), dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer) + 1)
    model.set_attn_implementation("eager")  # in bf16 on a CPU, the backward pass of the fused one is slow
    return model


class Diffusion(Training):
    """The training of nano to fill masks."""

    def made(self) -> LlamaForCausalLM:
        """Return nano with one more token, the mask."""
        self.mask, self.end = len(self.tokenizer), self.tokenizer.eos_token_id
        return start(self.tokenizer)

    def prepare(self) -> None:
        """Get the groups of texts of both kinds of batches, and the held-out texts."""
        found = pairs("train", self.options.counts, self.options.seed, self.tokenizer)
        self.dev = {kind: pairs("dev", {kind: HELD_OUT}, 0, self.tokenizer) for kind in self.options.counts}
        self.wide = islice(self._groups(found, TOKENS, 0), self.step, None)
        self.narrow = islice(self._groups(found, BLOCK_TOKENS, 1), self.step, None)

    def gradients(self, step: int) -> float:
        """Read a batch in which all tokens see all others, and one with blocks."""
        rng, chances = random.Random(f"diffuse/{self.options.seed}/{step}"), torch.Generator().manual_seed(step)
        total = 0.0
        for group, blocks in ((next(self.wide), False), (next(self.narrow), True)):
            batch = Masked(group, self.end, rng, chances, blocks)
            value = fill_loss(self.model, batch, self.mask) / batch.counted / 2
            value.backward()  # type: ignore[no-untyped-call]
            total += value.item()
        return total

    def held_out(self) -> dict[str, float]:
        """Return the mean loss of a token of the answers by kind, with and without blocks."""
        return {f"{kind}{'/blocks' * blocks}": self._mean(some, blocks)
                for kind, some in self.dev.items() for blocks in (False, True)}

    def save(self) -> None:
        """Write the change of nano's weights in 4 bits, the configuration and the curve."""
        save(self.model, self.options.out)
        self.finish()

    def _groups(self, found: list[Pair], tokens: int, seed: int) -> Iterator[list[Pair]]:
        lengths = [len(one.source) + len(one.target) for one in found]
        for group in grouped(lengths, tokens, 2 * self.options.seed + seed):
            yield [found[place] for place in group]

    def _mean(self, some: list[Pair], blocks: bool) -> float:
        rng, chances, total, count = random.Random(0), torch.Generator().manual_seed(0), 0.0, 0.0
        ordered = sorted(some, key=lambda one: len(one.source) + len(one.target))
        for first in range(0, len(ordered), 20):
            batch = Masked(ordered[first : first + 20], self.end, rng, chances, blocks)
            total, count = total + fill_loss(self.model, batch, self.mask).item(), count + batch.counted
        return total / count


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write what was added to nano's weights in 4 bits, and the configuration."""
    plain = LlamaForCausalLM.from_pretrained(nano.weights(nano.NANO), dtype=torch.float32).state_dict()
    change = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for name, one in change.items():
        one[:len(plain[name])] -= plain[name]
    packed.save(change, folder, bits=4)
    config = LlamaConfig.from_dict(model.config.to_dict())
    config.canvas = {"mask": config.vocab_size - 1, "shift": True, "block": BLOCK, "both": True}
    config.nano = packed.PLUS
    config.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Train and write the model."""
    run(Diffusion, parser(__doc__, steps=3000, rate=2e-3), arguments, counts=COUNTS)


if __name__ == "__main__":
    program(main)
