"""Trains the filter of the strategy `learn2pd` for a model that fills masks.

    python -m strategies.tools.learn2pd --model FOLDER --out FILE [--limit 50] [--knobs cache=block]

The model answers prompts with one mask a step, and then again with all masks at once whose token is that of this
answer. Each of these steps shows the confidences of a window and which of its tokens are right (Bao et al. 2025,
arXiv 2509.25188, §3.2). One prompt in five is held out.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from harness import nano
from harness.decoding.canvas_loop import Predicted
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.laboratory import diffuse, prompts
from harness.models.loading import Model, load
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from harness.run.loading import load_target
from harness.store.config import RunConfig
from strategies.canvas_oracle import CanvasOracle, right
from strategies.parts.parallel_filter import CLOSED, SHAPES, WIDTH, Filter, confidences

TOGETHER, HELD_OUT, RATE = 16, 5, 3e-3


class Shown(NamedTuple):
    """Steps (N, 32): the confidences, which tokens are right, and which places were open."""

    confidences: Tensor
    right: Tensor
    open: Tensor


def shown(engine: Engine, request: Request, oracle: CanvasOracle) -> list[tuple[list[float], list[float], list[float]]]:
    """Return the steps of the oracle for one prompt."""
    rows = list[tuple[list[float], list[float], list[float]]]()

    def noted(final: Sequence[int], seen: Predicted, asked: Request) -> Mapping[int, int]:
        first, still = seen.canvas.window[0], seen.ranked
        if len(seen.scores) > WIDTH:
            raise UserError(f"Windows have {len(seen.scores)} places, and the filter {WIDTH}: give --knobs "
                            f"block={WIDTH}.")
        same = [place for place in still if place < len(final) and seen.written([place])[place] == final[place]]
        rest = WIDTH - len(seen.scores)
        rows.append(([*confidences(seen.scores, first, still), *[CLOSED] * rest],
                     [float(place in same) for place in range(first, first + WIDTH)],
                     [float(place in still) for place in range(first, first + WIDTH)]))
        return right(final, seen, asked)
    with closing(Session(engine)) as session, closing(Session(engine)) as other:
        final = [token for step in oracle.fill(other, request, oracle.writes) for token in step]
        for _ in oracle.fill(session, request, partial(noted, [*request.prompt, *final])):
            pass
    return rows


def collected(model: Model, asked: Sequence[list[int]], oracle: CanvasOracle, new: int) -> Shown:
    """Return the steps of all prompts."""
    jobs = [partial(shown, model.engine, Request(tuple(one), new, PhiloxStream(0, *one), model.eos), oracle)
            for one in asked]
    found = run_batched([model.engine], jobs, TOGETHER)
    rows = [row for steps in found if isinstance(steps, list) for row in steps]
    return Shown(*(torch.tensor(part) for part in zip(*rows, strict=True)))


def fitted(some: Shown, epochs: int, seed: int = 0) -> Filter:
    """Fit a filter by binary cross-entropy over the open places."""
    torch.manual_seed(seed)
    weights = {name: (torch.randn(shape) / WIDTH**0.5 if len(shape) > 1 else torch.zeros(shape)).requires_grad_()
               for name, shape in SHAPES.items()}
    made, optimizer = Filter(**weights), torch.optim.AdamW(weights.values(), lr=RATE)
    for _ in range(epochs):
        logits = made.logits(some.confidences)
        losses = functional.binary_cross_entropy_with_logits(logits, some.right, reduction="none")
        optimizer.zero_grad()
        ((losses * some.open).sum() / some.open.sum()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Filter(**{name: one.detach() for name, one in weights.items()})


def report(made: Filter, some: Shown, threshold: float) -> Iterator[str]:
    """Yield lines about held-out steps: how many right tokens it finds, and how many it finds are right."""
    chosen = (made.logits(some.confidences).sigmoid() > threshold).float() * some.open
    true = some.right * some.open
    yield f"{len(some.open)} held-out steps, {true.sum() / some.open.sum():.3f} of their open places are right"
    yield (f"of these the filter finds {(chosen * true).sum() / true.sum():.3f} at a chance of {threshold}, and "
           f"{(chosen * true).sum() / chosen.sum():.3f} of those that it finds are right")


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer, fit, report and save; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a model that fills masks: a folder or a hub id")
    parser.add_argument("--task", action="append", default=[], help="task with the prompts; repeatable [nano's corpus]")
    parser.add_argument("--limit", type=int, default=50, help="prompts of a task, or of a kind of nano's corpus")
    parser.add_argument("--new", type=int, default=96, help="masks of an answer")
    parser.add_argument("--knobs", default="", help="knobs of all strategies for masks, such as cache=block")
    parser.add_argument("--epochs", type=int, default=4000)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    try:
        o = parser.parse_args(arguments)
        if not o.out.parent.is_dir():
            raise UserError(f"There is no folder {o.out.parent} for --out; make it first.")
        oracle = STRATEGIES.build(f"canvas_oracle:{o.knobs}" if o.knobs else "canvas_oracle")
        assert isinstance(oracle, CanvasOracle)
        config = RunConfig(model=o.model, tasks=tuple(o.task), limit=o.limit, device="cpu")
        model = load_target(config) if o.task else load(o.model)
        if "canvas" not in model.engine.offers:
            raise UserError(f"{o.model} fills no masks; give a model that does.")
        if not o.task and not Path(o.model, nano.PACKED_FILE).is_file():  # which was trained for nano's corpus
            raise UserError(f"Which prompts should '{o.model}' answer? Give a task with --task.")
        asked = (prompts.of_tasks(model, config) if o.task else
                 prompts.of_nano(model, "train", o.limit, diffuse.COUNTS))
        if len(asked) < HELD_OUT:
            raise UserError(f"{len(asked)} prompts are too few to train a filter; give more with --limit.")
        rest = [one for place, one in enumerate(asked) if place % HELD_OUT]
        made = fitted(collected(model, rest, oracle, o.new), o.epochs)
        made.save(o.out)
        print(*report(made, collected(model, asked[::HELD_OUT], oracle, o.new), 0.96), sep="\n")
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
