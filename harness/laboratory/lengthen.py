"""Trains `nano-long`: a low-rank change of nano for texts that are longer than those it was trained on.

    python -m harness.laboratory.lengthen --out FOLDER [--steps 400] [--rate 4e-3] [--rank 16] [--keep 150] [--seed 0]

The positions are scaled by YaRN (Peng et al. 2023, arXiv 2309.00071), and the change is that of LoRA (Hu et al. 2021,
arXiv 2106.09685) in every linear layer. Each step reads a long text with many questions about it, and every other one
also, by turns, short problems as nano knows them or stories in a row. The lengths grow during the first half. The last
`--keep` steps read two batches of short problems each, of which they learn nano's own distributions, and a long text in
every third one. The same command goes on with a training that was stopped.
"""

import argparse
import json
import random
import time
from collections.abc import Iterable
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoTokenizer, LlamaForCausalLM

from harness import nano
from harness.errors import program
from harness.laboratory.training import CLIP, REPORT, rate_at
from harness.laboratory.tuning import Adapters
from harness.nano import attention, change
from harness.nano.corpus import problems
from harness.nano.documents import Batch, batches, documents, empty, padded
from harness.nano.long_texts import Piece, asked_text, stories_in_a_row
from harness.nano.sizes import tokens
from harness.nano.training import distillation_loss
from harness.store.files import replace_file

SHORT = {"math": 3000, "code": 3000, "chat": 3000, "story": 300, "edit": 4000, "summary": 2000}
STORIES, SHORT_TOKENS, SHORT_SHARE = 500, 1536, 0.5
SHORTEST, FIRST_LONGEST, LONGEST = 384, 1024, 2560  # tokens of a text with questions
HELD_OUT = (256, 1024, 2048)


class Lengthening:
    """The model with its change, the optimizer and the curve of one training."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.file = options, options.out / "training.pt"
        self.tokenizer = AutoTokenizer.from_pretrained(nano.weights("nano"))
        self.model = LlamaForCausalLM.from_pretrained(nano.weights("nano"), dtype=torch.float32,
                                                      **nano.LONG_CONFIG).requires_grad_(False)
        self.before = LlamaForCausalLM.from_pretrained(nano.weights("nano"), dtype=torch.float32)
        self.model.set_attn_implementation(attention.FRUGAL)
        self.adapters = Adapters(self.model.get_decoder(), options.rank)
        self.optimizer = torch.optim.AdamW(self.adapters.parameters(), lr=options.rate, betas=(0.9, 0.95),
                                           weight_decay=0.0)
        self.curve, self.seconds = list[dict[str, float]](), 0.0
        self.step = self._resumed()

    def train(self) -> None:
        """Make the steps that are left, and report every `REPORT` of them."""
        found = documents("train", SHORT, self.options.seed, self.tokenizer)
        start = self.options.steps - self.options.keep  # of the last part
        read = min(self.step, start) // 4 + 2 * max(0, self.step - start)
        short = islice(batches(found, SHORT_TOKENS, self.options.seed), read, None)
        current, recent, before = float("nan"), float("nan"), time.monotonic() - self.seconds
        for step in range(self.step + 1, self.options.steps + 1):
            for group in self.optimizer.param_groups:
                group["lr"] = self.options.rate * rate_at(step, self.options.steps)
            rng = random.Random(f"lengthen/{self.options.seed}/{step}")
            keeping = step > start
            if not keeping or step % 3 == 0:
                current = self._learn(self._asked(rng, step), 1.0)
            for _ in range(2 * keeping):
                self._imitate(next(short))
            if step % 2 == 0 and not keeping:
                self._learn(self._stories(rng) if step % 4 else next(short), SHORT_SHARE)
            torch.nn.utils.clip_grad_norm_(self.adapters.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()
            recent = current if recent != recent else 0.95 * recent + 0.05 * current
            if step % 10 == 0:
                print(f"step {step}, {time.monotonic() - before:.0f} s, loss {recent:.4f}", flush=True)
            if step % REPORT == 0 or step == self.options.steps:
                self.step, self.seconds = step, time.monotonic() - before
                self._report(recent)
                self._keep()

    def save(self) -> None:
        """Write the change and the curve, in place of what the training needs to go on."""
        names = {layer: f"{name}.weight" for name, layer in self.model.named_modules()}
        adapters = self.adapters
        change.save({names[layer]: (up, down) for layer, up, down in
                     zip(adapters.layers, adapters.up, adapters.down, strict=True)}, self.options.out)
        facts = {"name": nano.LONG, "seed": self.options.seed, "steps": self.options.steps, "rank": self.options.rank,
                 "parameters": self.model.num_parameters(), "changed": sum(map(torch.numel, adapters.parameters())),
                 "curve": self.curve}
        (self.options.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
        self.file.unlink()

    def _asked(self, rng: random.Random, step: int) -> Batch:
        share = min(1.0, 2 * step / self.options.steps)
        longest = round(FIRST_LONGEST + share * (LONGEST - FIRST_LONGEST))
        return self._batch(asked_text(rng, tokens, rng.randint(SHORTEST, longest)))

    def _stories(self, rng: random.Random) -> Batch:
        some = rng.sample(problems("story", "train", STORIES), 40)
        return self._batch(stories_in_a_row(iter(some), tokens, rng.randint(SHORTEST, 2 * SHORT_TOKENS)))

    def _batch(self, pieces: Iterable[Piece]) -> Batch:
        document = empty()
        for text, weight in pieces:
            document.add(self.tokenizer(text).input_ids, weight)
        return padded([document])

    def _losses(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of a batch with these weights (B, T)."""
        counted = weights[:, 1:] > 0
        with torch.autocast("cpu", torch.bfloat16), self.adapters.applied():
            states = self.model.get_decoder()(batch.ids[:, :-1]).last_hidden_state[counted]
            logits = self.model.get_output_embeddings()(states)
        losses = functional.cross_entropy(logits.float(), batch.ids[:, 1:][counted], reduction="none")
        return (losses * weights[:, 1:][counted]).sum() / weights.sum()

    def _learn(self, batch: Batch, share: float) -> float:
        value = self._losses(batch, batch.weights)
        (share * value).backward()  # type: ignore[no-untyped-call]
        return value.item()

    def _imitate(self, batch: Batch) -> None:
        """Learn nano's distributions in a batch."""
        with torch.autocast("cpu", torch.bfloat16), self.adapters.applied():
            logits = self.model(batch.ids[:, :-1]).logits
        value = distillation_loss(self.before)(logits, batch) / batch.weights[:, 1:].sum()
        value.backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _report(self, recent: float) -> None:
        """Add a point to the curve: the loss of answers about new texts of each length of `HELD_OUT`."""
        point = {"step": self.step, "seconds": round(self.seconds, 1), "train": round(recent, 4)}
        for length in HELD_OUT:
            some = [self._batch(asked_text(random.Random(f"held out/{length}/{number}"), tokens, length))
                    for number in range(4)]
            losses = [self._losses(batch, (batch.weights >= 1).float()).item() for batch in some]
            point[str(length)] = round(sum(losses) / len(losses), 4)
        self.curve.append(point)
        print(point, flush=True)

    def _keep(self) -> None:
        file = BytesIO()
        torch.save({"adapters": self.adapters.state_dict(), "optimizer": self.optimizer.state_dict(),
                    "curve": self.curve, "step": self.step, "seconds": self.seconds}, file)
        replace_file(self.file, file.getvalue())

    def _resumed(self) -> int:
        """Load what `_keep` wrote, if it did, and return the number of steps made."""
        if not self.file.exists():
            return 0
        found: dict[str, Any] = torch.load(self.file, weights_only=True)
        self.adapters.load_state_dict(found["adapters"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.curve, self.seconds = found["curve"], found["seconds"]
        return int(found["step"])


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, or `arguments`, train, and write the change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the change")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--keep", type=int, default=150, help="steps at the end for short problems")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lengthening = Lengthening(options)
    lengthening.train()
    lengthening.save()


if __name__ == "__main__":
    program(main)
