"""Trains the family from an empty folder: the tokenizer, the target `nano`, then `nano-draft` on nano's own answers.

python -m harness.nano.train --out FOLDER [--minutes M | --steps N] [--workers W] [--seed 0]
    [--start FOLDER --rate 0.5]    to go on from trained models, with another seed for fresh problems
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.nano import attention
from harness.nano.corpus import KINDS, problems
from harness.nano.documents import Batch, Document, batches, documents, parts
from harness.nano.samples import samples
from harness.nano.team import Team, launch
from harness.nano.tokenizer import CONTEXT, train_tokenizer
from harness.nano.training import Run, distillation_loss, text_loss, train

SHAPES = {
    "nano": {"hidden_size": 192, "num_hidden_layers": 10, "num_attention_heads": 3, "intermediate_size": 512},
    "nano-draft": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 344},
}
PEAK_RATE = {"nano": 4e-3, "nano-draft": 5e-3}
# Problems of each kind that one worker draws, held-out ones, and answers of nano's that its draft learns from.
TRAIN = {"math": 35_000, "code": 26_000, "chat": 40_000, "story": 8_000, "edit": 44_000, "summary": 24_000}
HELD_OUT = {"math": 60, "code": 60, "chat": 60, "story": 20, "edit": 40, "summary": 40}
SAMPLES = {"math": 2_000, "code": 1_600, "chat": 2_000, "story": 512, "edit": 1_000, "summary": 800}
TOKENS = 1536
DEFAULT_MINUTES = {"cpu": 40.0, "cuda": 8.0}


@dataclass(frozen=True)
class Options:
    """The command-line options; `draft_share` is nano-draft's share of nano's minutes or steps."""

    out: Path
    minutes: float | None
    steps: int | None
    draft_share: float
    seed: int
    start: Path | None
    rate: float

    def run(self, name: str, device: str) -> Run:
        """Return the plan of one model's training on a "cpu" or on "cuda"."""
        share = 1.0 if name == "nano" else self.draft_share
        steps = None if self.steps is None else max(1, round(self.steps * share))
        minutes = None if self.steps else (self.minutes or DEFAULT_MINUTES[device]) * share
        return Run(name, steps, minutes and minutes * 60, PEAK_RATE[name] * self.rate)


def build(name: str, tokenizer: PreTrainedTokenizerFast, start: Path | None = None) -> LlamaForCausalLM:
    """Return an untrained model of the family, or the one that is in the folder `start`."""
    end = tokenizer.eos_token_id
    config = LlamaConfig.from_dict(
        SHAPES[name]
        | {
            "vocab_size": len(tokenizer),
            "num_key_value_heads": SHAPES[name]["num_attention_heads"],
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": True,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
        }
    )
    model = LlamaForCausalLM.from_pretrained(start / name, dtype=torch.float32) if start else LlamaForCausalLM(config)
    model.set_attn_implementation(attention.NAME)
    return model


def train_family(options: Options, tokenizer: PreTrainedTokenizerFast, team: Team) -> None:
    """Train both models into the folder `out`, as one worker of a team with its own part of the data."""
    share = options.seed * 1000 + team.rank
    found = documents("train", TRAIN, share, tokenizer)
    held_out = {kind: documents("dev", {kind: count}, 0, tokenizer) for kind, count in HELD_OUT.items()}
    if team.first:
        size = sum(len(document.ids) for document in found) * team.size / 1e6
        print(f"{len(found) * team.size} documents, {size:.1f} M tokens, vocabulary {len(tokenizer)}", flush=True)
    text = batches(found, TOKENS, share)
    nano = train_one("nano", options, tokenizer, team, (text, held_out), None)
    own = list(samples(nano, tokenizer, SAMPLES, share))
    if team.first:
        size = sum(len(document.ids) for document in own) * team.size / 1e6
        print(f"{len(own) * team.size} answers written by nano, {size:.1f} M tokens with their prompts", flush=True)
    both = by_turns(batches(own, TOKENS, share), text)
    train_one("nano-draft", options, tokenizer, team, (both, held_out), nano)


def by_turns(*streams: Iterator[Batch]) -> Iterator[Batch]:
    """Yield a batch of each stream in turn, without end."""
    while True:
        yield from map(next, streams)


def train_one(
    name: str,
    options: Options,
    tokenizer: PreTrainedTokenizerFast,
    team: Team,
    data: tuple[Iterator[Batch], dict[str, list[Document]]],
    teacher: LlamaForCausalLM | None,
) -> LlamaForCausalLM:
    """Train and save one model of the family; with a teacher, on its distributions instead of the text."""
    torch.manual_seed(options.seed)
    model = build(name, tokenizer, options.start)
    torch.nn.Module.to(model, device=team.device)
    run = options.run(name, team.device)
    if team.first:
        print(f"{name}: {model.num_parameters() / 1e6:.2f} M parameters", flush=True)
    loss = distillation_loss(teacher) if teacher else text_loss
    train(model, run, data, loss, team, partial(save_model, model, tokenizer, run, options, team))
    return model


def save_model(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, run: Run, options: Options, team: Team
) -> None:
    """Write the model in bf16, its tokenizer and its curve; the folder is replaced as a whole."""
    folder = options.out / run.name
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for one in (fresh, old):
        shutil.rmtree(one, ignore_errors=True)
    copy = deepcopy(model)
    torch.nn.Module.to(copy, dtype=torch.bfloat16)
    end = tokenizer.eos_token_id
    copy.generation_config = GenerationConfig.from_dict({"eos_token_id": end, "pad_token_id": end, "bos_token_id": end})
    copy.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    earlier = options.start and json.loads((options.start / run.name / "training.json").read_text())
    facts = {"name": run.name, "seed": options.seed, "workers": team.size, "device": team.device}
    facts |= {"parameters": model.num_parameters(), "curve": run.curve, "went_on_from": earlier}
    (fresh / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def new_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on a part of the corpus."""
    return train_tokenizer(
        piece for kind in KINDS for one in problems(kind, "train", 3000, seed) for piece, _ in parts(one, kind)
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, or `arguments`, and train the family."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold nano/ and nano-draft/")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="minutes of training for nano (default 40, on a GPU 8)")
    length.add_argument("--steps", type=int, help="steps of training for nano, in place of minutes")
    parser.add_argument("--draft-share", type=float, default=0.25, help="nano-draft's share of nano's length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processes on a CPU, one core each (default 2)")
    parser.add_argument("--start", type=Path, help="folder with trained models to go on from")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the peak learning rates")
    chosen = vars(parser.parse_args(arguments))
    for name in ("minutes", "steps", "draft_share", "workers", "rate"):
        if chosen[name] is not None and chosen[name] <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0, not {chosen[name]}")
    if chosen["start"] and not all((chosen["start"] / name / "training.json").is_file() for name in SHAPES):
        parser.error(f"{chosen['start']} does not hold the trained models {' and '.join(SHAPES)}")
    workers, options = chosen.pop("workers"), Options(**chosen)
    if not hasattr(torch.optim, "Muon"):
        parser.error(f"torch {torch.__version__} has no Muon: training needs torch 2.9 or newer")
    start = options.start
    tokenizer = AutoTokenizer.from_pretrained(start / "nano") if start else new_tokenizer(options.seed)
    launch(partial(train_family, options, tokenizer), workers)


if __name__ == "__main__":
    main()
