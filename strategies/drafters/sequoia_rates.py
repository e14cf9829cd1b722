"""The rates at which the target accepts the first, second, … sibling that a draft model proposes."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.models.prompts import encode
from harness.plugins.strategy import Request
from harness.run.plan import Plan
from strategies.drafters.texts import given
from strategies.drafters.tree import distinct
from strategies.sequoia import Sequoia

PIECE = 256  # tokens of a text in one forward pass
Text = tuple[list[int], int]
"""Token ids, and the number of tokens before the first counted position, at least one."""


def ranks(target: Engine, draft: Engine, texts: Sequence[Text], strategy: Sequoia, count: int) -> tuple[list[int], int]:
    """Count how often the first, second, … of `count` siblings is accepted, and the tested positions."""
    counts, positions, stream, warp = [0] * count, 0, PhiloxStream("sequoia_size"), strategy.logit_warp()
    accept = at(strategy.temperature, strategy.rule())
    for tokens, start in texts:
        for p, q in zip(*(_rows(engine, tokens, start) for engine in (target, draft)), strict=True):
            warped = torch.softmax((warp(q[None], [[]])[0] if strategy.temperature else q).double(), -1)
            [siblings] = distinct(warped[None], [count], stream if strategy.temperature else None)
            tree = TokenTree(tuple(siblings), (-1,) * len(siblings), {-1: warped})
            path, _ = accept(tree, warp(p[None], [[]]).expand(1 + len(siblings), -1), stream)
            positions += 1
            if path:
                counts[path[0]] += 1
    return counts, positions


def chances(counts: Sequence[int], positions: int) -> tuple[float, ...]:
    """Turn counts into rates of four decimals, cut before the first zero; raises `UserError` when nothing is left."""
    rates = [count * 10000 // positions / 10000 for count in counts] if positions else []
    positive = rates[:rates.index(0)] if 0 in rates else rates
    if not positive:
        raise UserError(f"the draft's first choice was accepted {counts[0]} times in {positions}: "
                        "use more text, or another draft model.")
    return tuple(positive)


def prompted(made: Plan, strategy: Sequoia, new: int) -> list[Text]:
    """Return the prompts of the plan's tasks, each continued by the target with at most `new` tokens."""
    texts, room = list[Text](), longest(made)
    for task, examples in made.tasks:
        for example in examples:
            prompt = encode(made.target, task.prompt(example, []))[-max(1, room - new):]
            request = Request(tuple(prompt), new, PhiloxStream(task.spec(), example.id))
            session, tokens = Session(made.target.engine), list(prompt)
            for step in one_by_one(session, at(strategy.temperature), request, strategy.logit_warp()):
                tokens += step
                if step[-1] in made.target.eos or len(tokens) >= min(len(prompt) + new, room):
                    break
            session.close()
            texts.append((tokens, len(prompt)))
    return texts


def read_texts(path: Path, made: Plan, limit: int) -> list[Text]:
    """Return the first `limit` pieces of a text file or a folder of them; raises `UserError` when there is no text."""
    tokens = made.target.tokenizer(given(path))["input_ids"]
    length = min(PIECE, longest(made))
    pieces = [ids[i:i + length] for ids in tokens for i in range(0, len(ids), length)]
    if not (texts := [(piece, 1) for piece in pieces if len(piece) > 1][:limit]):
        raise UserError(f"{path} contains no text.")
    return texts


def longest(made: Plan) -> int:
    """Return the number of tokens that fit into the context of both models."""
    return min(model.engine.max_len for model in (made.target, made.draft) if model)


def _rows(engine: Engine, tokens: list[int], start: int) -> Tensor:
    """Return (N, V) the logits for each token from `start` on."""
    session = Session(engine)
    session.follow(tokens[:start])
    logits = session.read(TokenTree.chain(tokens[start:-1])).logits
    session.close()
    return logits
