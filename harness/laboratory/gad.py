"""Trains the drafter of the strategy `gad` for nano-seq2seq: it fills masks behind the beginning of an answer.

    python -m harness.laboratory.gad --out FOLDER [--steps 1500] [--rate 2e-3] [--answers 12000] [--seed 0]

The drafter starts as nano-seq2seq with one more token, the mask, and its decoder sees all of its input. It learns from
nano-seq2seq's own answers with glancing (Qian et al. 2021, arXiv 2008.07905; Xia et al. 2022, arXiv 2203.16487, §3.2):
what it fills wrong at first decides how many of the masks are shown their tokens before it learns the others. The same
command goes on with a training that was stopped.
"""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, MarianMTModel

from harness import nano
from harness.errors import UserError, program
from harness.laboratory.pairs import COUNTS, IGNORED, Pair, PairBatch, pair_batch, pairs
from harness.laboratory.resumable import parser, run
from harness.laboratory.seq2seq import Seq2SeqTraining, build
from harness.nano import packed

MASKS = 25
SHOWN_FIRST, SHOWN_LESS = 0.5, 0.2  # share of the wrong ones that are shown, and by how much it falls
SMOOTHING = 0.1
TOGETHER, LONGEST = 128, 96


class Filled(NamedTuple):
    """What the decoder reads (B, T), what it is to give at its masks (B, T), and which tokens are real (B, T)."""

    given: Tensor
    labels: Tensor
    real: Tensor


def begun(batch: PairBatch, mask: int, chances: torch.Generator) -> Filled:
    """Return the start of each target, of a random length, with masks behind it; the end of a target may be before."""
    count = batch.labels.shape[1]
    size = (batch.labels != IGNORED).sum(1, keepdim=True)
    first = (torch.rand(len(size), 1, generator=chances) * size).long()  # the first token that is masked
    place = torch.arange(count + MASKS)[None]
    target = functional.pad(batch.labels, (0, MASKS), value=IGNORED)
    masked = (place >= first) & (place < first + MASKS)
    read = torch.cat([batch.given[:, :1], target.clamp(min=0)], 1)  # the start token is at place 0
    given = read.masked_fill(functional.pad(masked, (1, 0)), mask)
    labels = functional.pad(target.masked_fill(~masked, IGNORED), (1, 0), value=IGNORED)
    return Filled(given, labels, functional.pad(place < first + MASKS, (1, 0), value=True))


def glanced(filled: Filled, found: Tensor, share: float, mask: int, chances: torch.Generator) -> Filled:
    """Show the tokens of random masks, as many as `share` of those where the tokens `found` (B, T) are wrong."""
    counted = filled.labels != IGNORED
    wrong = ((found != filled.labels) & counted).sum(1, keepdim=True)
    order = torch.rand(found.shape, generator=chances).masked_fill(~counted, 2.0).argsort(1).argsort(1)
    shown = counted & (order < (wrong * share).long())
    return Filled(torch.where(shown, filled.labels, filled.given), filled.labels.masked_fill(shown, IGNORED),
                  filled.real)


class GadTraining(Seq2SeqTraining):
    """The training of a drafter."""

    def made(self) -> MarianMTModel:
        """Return nano-seq2seq with one more token."""
        model = build(self.tokenizer, self.options.encoder, self.options.decoder, extra=1)
        weights = packed.load(nano.weights(nano.SEQ2SEQ))
        fresh = model.model.shared.weight.detach().clone()
        fresh[:-1] = weights["model.shared.weight"]
        model.load_state_dict(weights | {"model.shared.weight": fresh}, strict=False)
        self.mask, self.chances = len(self.tokenizer), torch.Generator().manual_seed(self.options.seed)
        return model

    def found(self) -> list[Pair]:
        """Return prompts with the answers of nano-seq2seq, which are kept in a file."""
        file = self.options.out / "answers.pt"
        if not file.exists():
            if self.options.answers < sum(COUNTS.values()) / min(COUNTS.values()):
                raise UserError(f"--answers {self.options.answers} are too few to learn from; give a hundred or more.")
            counts = {kind: count * self.options.answers // sum(COUNTS.values()) for kind, count in COUNTS.items()}
            some = pairs("train", counts, self.options.seed, self.tokenizer)
            answers = zip(some, self._answers(some), strict=True)
            torch.save([(list(one.source), answer) for one, answer in answers], file)
        return [Pair(array("H", source), array("H", answer)) for source, answer in torch.load(file)]

    def loss(self, batch: PairBatch, share: float) -> Tensor:
        """Return the sum of the cross-entropy of the masks that are left after glancing."""
        filled = begun(batch, self.mask, self.chances)
        if torch.is_grad_enabled():
            with torch.no_grad():
                best = self._logits(batch, filled)[..., :self.mask].argmax(-1)
            filled = glanced(filled, best, SHOWN_FIRST - SHOWN_LESS * share, self.mask, self.chances)
        counted = filled.labels != IGNORED
        logits = self._logits(batch, filled)[counted][:, :self.mask].float()
        return functional.cross_entropy(logits, filled.labels[counted], reduction="sum", label_smoothing=SMOOTHING)

    def save(self) -> None:
        """Write the drafter as a model that fills masks, with the tokenizer."""
        config, end = self.model.config, self.tokenizer.eos_token_id
        config.canvas = {"mask": self.mask}
        self.model.generation_config = GenerationConfig(decoder_start_token_id=end, eos_token_id=end, pad_token_id=end)
        self.model.save_pretrained(self.options.out)
        self.tokenizer.save_pretrained(self.options.out)
        self.finish()

    def _logits(self, batch: PairBatch, filled: Filled) -> Tensor:
        seen = torch.zeros(filled.real.shape).masked_fill(~filled.real, torch.finfo(torch.bfloat16).min)
        seen = seen[:, None, None].expand(-1, 1, filled.real.shape[1], -1)
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.model(input_ids=batch.source, attention_mask=batch.mask, use_cache=False,
                                        decoder_input_ids=filled.given, decoder_attention_mask=seen.bfloat16()).logits
        return logits

    @torch.no_grad()
    def _answers(self, some: list[Pair]) -> Iterator[list[int]]:
        teacher, end = build(self.tokenizer, self.options.encoder, self.options.decoder), self.tokenizer.eos_token_id
        teacher.load_state_dict(packed.load(nano.weights(nano.SEQ2SEQ)), strict=False)
        teacher.eval().set_attn_implementation("sdpa")
        for start in range(0, len(some), TOGETHER):
            batch = pair_batch(some[start : start + TOGETHER], end)
            rows = teacher.generate(input_ids=batch.source, attention_mask=batch.mask, max_new_tokens=LONGEST,
                                    do_sample=False).tolist()
            for row in rows:
                yield row[1 : row.index(end, 1) + 1] if end in row[1:] else row[1:]


def main(arguments: list[str] | None = None) -> None:
    """Train and write the drafter."""
    options = parser(__doc__, steps=1500, rate=2e-3)
    options.add_argument("--answers", type=int, default=12_000, help="answers of nano-seq2seq to learn from")
    run(GadTraining, options, arguments, encoder=6, decoder=2, counts=COUNTS)


if __name__ == "__main__":
    program(main)
