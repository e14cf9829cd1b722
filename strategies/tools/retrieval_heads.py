"""Find the attention heads of a model that retrieve tokens from its prompt, by a needle-in-a-haystack test.

`python -m strategies.tools.retrieval_heads --model nano` writes a JSON file for the strategy decore. One sentence (the
needle) is hidden in a text of other sentences, all from problems of nano's that no task uses, and the prompt asks for
it. A head scores when its highest attention is on the token of the needle that the model generates: one over the length
of the needle for each token (Wu et al. 2024, arXiv 2404.15574, §2). The mean is taken over the prompts whose answer
contains more than half of the needle's words, for several lengths of text, depths of the needle, and needles.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from harness.engine.attention_hooks import Head, WatchAttention, head_counts
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import UserError
from harness.models.loading import Model
from harness.nano.needles import haystacks as needles_hidden
from harness.nano.needles import word_recall
from harness.run.plan import make
from harness.store.config import RunConfig
from strategies.drafters.sequoia_rates import longest

MAX_NEW = 50     # maximum tokens of an answer
SHORTEST = 64    # tokens of a haystack


class Hidden(NamedTuple):
    """A prompt (token ids), and the range of the needle in it."""

    tokens: list[int]
    needle: range


def haystacks(encode: Callable[[str], list[int]], lengths: Sequence[int], depths: int, needles: int
              ) -> Iterator[Hidden]:
    """Yield a prompt for each needle, length in tokens and depth; depths are evenly spaced from start to end."""
    for one in needles_hidden(lambda text: len(encode(text)), lengths, depths, needles, "dev"):
        place, text = one.needles[0], ["Text:", *one.pieces]
        tokens = encode(" ".join(text) + "\n" + one.question)
        yield Hidden(tokens, range(len(encode(" ".join(text[:place + 1]))), len(encode(" ".join(text[:place + 2])))))


def scored(engine: Engine, prompt: Hidden, eos: frozenset[int]) -> tuple[list[int], dict[Head, float]]:
    """Return the answer (token ids), and the score of every head."""
    layers, heads = head_counts(engine.parts)
    watch, sequence, session = WatchAttention(tuple(range(layers))), list(prompt.tokens), Session(engine)
    scores = {(layer, head): 0.0 for layer in range(layers) for head in range(heads)}
    while len(sequence) < len(prompt.tokens) + MAX_NEW and sequence[-1] not in eos:
        session.follow(sequence)
        reading = session.read(EMPTY, watch)
        tops = torch.stack([reading.captured(f"attention:{layer}")[0].argmax(-1) for layer in watch.layers]).tolist()
        sequence.append(reading.best[0])
        for layer, row in enumerate(tops):
            for head, position in enumerate(row):
                if position in prompt.needle and prompt.tokens[position] == sequence[-1]:
                    scores[layer, head] += 1 / len(prompt.needle)
    session.close()
    return sequence[len(prompt.tokens):], scores


def retrieved(answer: str, needle: str) -> bool:
    """Return whether more than half of the words of `needle` are in `answer`."""
    return word_recall(answer, needle) > 0.5


def haystacks_of(model: Model, longest: int, lengths: int, depths: int, needles: int) -> list[Hidden]:
    """Return the prompts of a model for texts of `lengths` sizes, from `SHORTEST` to `longest` tokens."""
    sizes = [SHORTEST + round((longest - SHORTEST) * i / max(1, lengths - 1)) for i in range(lengths)]
    return list(haystacks(lambda text: list(model.tokenizer(text)["input_ids"]), sizes, depths, needles))


def needle_of(model: Model, prompt: Hidden) -> str:
    """Return the needle as text."""
    text: str = model.tokenizer.decode(prompt.tokens[prompt.needle.start:prompt.needle.stop])
    return text


def found_scores(model: Model, prompts: Sequence[Hidden]) -> list[dict[Head, float]]:
    """Return the scores of every head for each prompt whose needle is retrieved; raises `UserError` if none is."""
    results = [(prompt, *scored(model.engine, prompt, model.eos)) for prompt in prompts]
    found = [scores for prompt, answer, scores in results
             if retrieved(model.tokenizer.decode(answer), needle_of(model, prompt))]
    if not found:
        raise UserError(f"{model.name} retrieved none of {len(prompts)} needles, so its retrieval heads are unknown; "
                        "try shorter texts.")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the scores; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m strategies.tools.retrieval_heads",
                                     description="Find a model's retrieval heads for the strategy decore.")
    parser.add_argument("-m", "--model", default="nano", help="nano, a folder or a hub id")
    parser.add_argument("-o", "--output", type=Path, default=Path("retrieval_heads.json"), help="the file to write")
    parser.add_argument("--longest", type=int, default=512, help="tokens of the longest text")
    parser.add_argument("--lengths", type=int, default=10, help="number of text lengths, evenly spaced")
    parser.add_argument("--depths", type=int, default=10, help="positions of the needle in each")
    parser.add_argument("--needles", type=int, default=3, help="sentences to retrieve")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, …")
    try:
        with torch.inference_mode():
            print(_report(parser.parse_args(arguments)))
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(o: argparse.Namespace) -> str:
    for name, low, high in (("longest", SHORTEST, 1 << 20), ("lengths", 1, 100), ("depths", 1, 100),
                            ("needles", 1, 100)):
        if not low <= getattr(o, name) <= high:
            raise UserError(f"--{name} must be from {low} to {high}, not {getattr(o, name)}.")
    made = make(RunConfig(model=o.model, strategies=("greedy",), limit=1, dtype=o.dtype, device=o.device), "")
    model = made.target
    if o.longest + 3 * MAX_NEW > longest(made):
        raise UserError(f"--longest must be at most {longest(made) - 3 * MAX_NEW} for {o.model}, not {o.longest}.")
    prompts = haystacks_of(model, o.longest, o.lengths, o.depths, o.needles)
    found = found_scores(model, prompts)
    means = {f"{i}-{j}": round(fmean(scores[i, j] for scores in found), 4) for i, j in found[0]}
    about = {"model": o.model, "prompts": len(prompts), "found": len(found), "longest": o.longest}
    o.output.write_text(json.dumps(about | {"scores": means}) + "\n", encoding="utf-8")
    best = sorted(means, key=lambda head: -means[head])[:8]
    return (f"{o.output}: {len(found)} of {len(prompts)} needles retrieved; the first heads are "
            + ", ".join(f"{head} ({means[head]:.2f})" for head in best))


if __name__ == "__main__":
    sys.exit(main())
