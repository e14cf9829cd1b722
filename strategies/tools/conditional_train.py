"""Train the classifier of `conditional_beam`: will a text that begins so become a degenerate one?

`python -m strategies.tools.conditional_train --model nano --out FILE.npz` lets the model continue prompts at several
temperatures, labels every prefix of a text with whether the whole text is degenerate, fits a logistic regression on the
hidden states after the prefixes, and says how good it is on prompts it has not seen.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.logit_warps import temperature
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.prompts import encode
from harness.plugins.strategy import Request
from harness.run.plan import Plan, make
from harness.store.config import RunConfig
from strategies.parts.conditional import Attribute, Trained

TOGETHER = 16  # texts that are continued side by side
Text = tuple[list[int], Tensor]
"""The tokens of a text, and the hidden states (N, D) after all of them but the last."""


@dataclass
class Examples:
    """Hidden states (N, D) after prefixes, whether their texts have the attribute (N,), and their prompts (N,)."""

    hidden: np.ndarray
    good: np.ndarray
    prompt: np.ndarray


def sampled(made: Plan, attribute: Attribute, heats: Sequence[float], new: int, skip: int = 0) -> Examples:
    """All prefixes of a text per prompt of the plan's tasks, but the first `skip` of each, and temperature.

    A text has at most `new` tokens.
    """
    engine, eos, jobs, numbers = made.target.engine, made.target.eos, list[Callable[[], Text]](), list[int]()
    for number, (task, example) in enumerate((task, one) for task, examples in made.tasks for one in examples[skip:]):
        prompt = tuple(encode(made.target, task.prompt(example, []))[-max(1, engine.max_len - new):])
        for heat in heats:
            request = Request(prompt, new, PhiloxStream("conditional_beam", task.spec(), example.id, heat), eos)
            jobs.append(partial(_continued, engine, request, heat))
            numbers.append(number)
    hidden, good, prompts = list[Tensor](), list[bool](), list[int]()
    for number, text in zip(numbers, run_batched([engine], jobs, TOGETHER), strict=True):
        if isinstance(text, Exception):
            raise text
        tokens, states = text
        hidden.append(states)
        good += [attribute.holds(tokens[:-1] if tokens[-1] in eos else tokens)] * len(states)
        prompts += [number] * len(states)
    return Examples(torch.cat(hidden).numpy(), np.array(good), np.array(prompts))


def _continued(engine: Engine, request: Request, heat: float) -> Text:
    session, tokens = Session(engine, remember=True), list[int]()
    for step in one_by_one(session, at(heat), request, temperature(heat)):
        tokens += step
        if request.ends(tokens) or len(tokens) >= request.max_new_tokens:
            break
    states = session.memory[len(request.prompt):].float().cpu().clone()  # nothing follows the last token
    session.close()
    return tokens, states


def fitted(examples: Examples, attribute: Attribute) -> Trained:
    """The classifier; raises `UserError` when all texts are alike."""
    from sklearn.linear_model import LogisticRegression

    if len(set(examples.good.tolist())) < 2:
        raise UserError("All texts are " + ("good" if examples.good.all() else "degenerate")
                        + ": sample at other temperatures, or more of them.")
    mean, scale = examples.hidden.mean(0), examples.hidden.std(0) + 1e-6
    model = LogisticRegression(C=0.01, max_iter=500).fit((examples.hidden - mean) / scale, examples.good)
    weight = model.coef_[0] / scale
    return Trained(attribute, torch.from_numpy(weight).double(), float(model.intercept_[0] - weight @ mean))


def judged(trained: Trained, examples: Examples) -> list[str]:
    """Lines on how good it is: the share of good prefixes, the area under the ROC curve, and the Brier score."""
    from sklearn.metrics import brier_score_loss, roc_auc_score

    chance = np.exp(trained.log_p([], torch.from_numpy(examples.hidden)))
    share = float(examples.good.mean())
    return [f"{len(examples.good)} prefixes of prompts not seen in training, {share:.3f} of them of good texts",
            f"area under the ROC curve {roc_auc_score(examples.good, chance):.3f}",
            f"Brier score {brier_score_loss(examples.good, chance):.4f}; the share alone has {share * (1 - share):.4f}"]


def split(examples: Examples, held: int = 5) -> tuple[Examples, Examples]:
    """Those of four prompts in five, and those of the rest."""
    rest = examples.prompt % held == 0
    first, second = (Examples(examples.hidden[rows], examples.good[rows], examples.prompt[rows])
                     for rows in (~rest, rest))
    return first, second


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample, train, judge and save; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m strategies.tools.conditional_train",
                                     description="Train the classifier of the strategy conditional_beam.")
    parser.add_argument("--model", default="nano", help="nano, a folder or a hub id")
    parser.add_argument("--task", action="append", default=[], help="whose prompts; again for more, embedded without")
    parser.add_argument("--limit", type=int, default=100, help="examples of a task")
    parser.add_argument("--skip", type=int, default=0, help="so many first examples are left for measuring")
    parser.add_argument("--temperatures", default="0-0.3-0.6-1", help="each prompt is continued at each of them")
    parser.add_argument("--new", type=int, default=128, help="tokens of a text at most")
    parser.add_argument("--ngram", type=int, default=4, help="tokens whose coming again is a repeat")
    parser.add_argument("--repeated", type=float, default=0.2, help="share of repeats that makes a text degenerate")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    try:
        o = parser.parse_args(arguments)
        with torch.inference_mode():
            attribute = Attribute(o.ngram, o.repeated)
            made = make(RunConfig(model=o.model, strategies=("greedy",), tasks=tuple(o.task), limit=o.skip + o.limit,
                                  dtype=o.dtype, device=o.device), "")
            heats = [float(heat) for heat in o.temperatures.split("-")]
            seen, held = split(sampled(made, attribute, heats, o.new, o.skip))
            trained = fitted(seen, attribute)
            trained.save(o.out)
            print(*judged(trained, held), sep="\n")
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
