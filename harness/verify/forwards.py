"""Times forward passes of a run's models on this machine, v(M), and copies of memory."""

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from statistics import median
from typing import Any

import numpy as np
import torch

from harness.backends.trace import Clock
from harness.engine.engine import Engine
from harness.engine.forward import ForwardRequest
from harness.engine.session import Session
from harness.errors import UserError
from harness.measure.raw import read
from harness.models.loading import Model, load
from harness.plugins.registry import STRATEGIES
from harness.store.environment import environment
from harness.store.folder import Store
from harness.store.schema import ForwardTimes, HeadTimes, Limits, Manifest, ModelEntry

WIDTHS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 24, 32, 48, 64, 96, 128, 192, 256)
ROUNDS = 40
COPY = 1 << 30  # maximum bytes per copy: more than any CPU or GPU caches, and little beside a large model
TOKENS = (5, 2)  # input of forward passes of which only the time matters


@torch.inference_mode()
def forward_seconds(engines: Sequence[Engine], context: Sequence[int], widths: Sequence[int], rounds: int,
                    texts: int = 1, clock: Clock = time.perf_counter) -> list[dict[int, list[float]]]:
    """Time `rounds` forward passes of each engine for each number of new tokens per sequence (`widths`), in seconds.

    Each pass covers `texts` sequences whose `context` (token ids) is cached. The new tokens are not kept. Engines and
    widths take turns, so that a machine that slows down slows all of them alike.
    """
    sessions = [[_opened(engine, context) for _ in range(texts)] for engine in engines]
    taken = [{width: list[float]() for width in widths} for _ in engines]
    for number in range(1 + rounds):
        for width in widths:
            tokens, positions = list(islice(cycle(TOKENS), width)), range(len(context), len(context) + width)
            for rows, seconds in zip(sessions, taken, strict=True):
                requests = [ForwardRequest(session.row, len(context), tokens, positions, None, width)
                            for session in rows]
                began = clock()
                _ = rows[0].engine.run(requests)[0].best  # waits for the forward pass, on a GPU too
                passed = clock() - began
                seconds[width] += [passed] if number else []  # the first round is a warm-up
    for session in (session for rows in sessions for session in rows):
        session.close()
    return taken


def _opened(engine: Engine, context: Sequence[int]) -> Session:
    session = Session(engine)
    session.begin(context if "source" in engine.offers else ())  # as long as the answer so far
    session.follow(context)
    session.read()
    return session


def copied_bytes_per_second(size: int, device: str, rounds: int = ROUNDS, clock: Clock = time.perf_counter) -> float:
    """Return bytes read and written per second by the fastest of `rounds` copies of `size` bytes, `COPY` at most."""
    source = torch.ones(max(1, min(size, COPY) // 4), device=device)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(rounds):
        began = clock()
        target.copy_(source)
        _ = target[-1].item()  # waits for the copy
        best = min(best, clock() - began)
    return 2 * 4 * source.numel() / best


def measure(store: Store, say: Callable[[str], None], clock: Clock = time.perf_counter) -> Limits:
    """Load the models of a run in its precision, and time their forward passes and copies of memory.

    `say` is called with what is measured next. Raises `UserError` when the models or the machine are not those of the
    run.
    """
    manifest, config = store.manifest, store.manifest.config
    device, texts = str(config.get("device", "cpu")), int(config.get("concurrency", 1))
    threads = int(manifest.environment.get("threads", 1))
    hardware = environment(device, threads)["hardware"]
    _same_machine(store, hardware)
    say("the models")
    models = [_loaded(entry, manifest, device) for entry in (manifest.model, manifest.draft) if entry]
    context, widest = _typical(store, min(model.engine.max_len for model in models))
    widths = WIDTHS[:1 + sum(width < widest for width in WIDTHS)]
    say(f"forwards over {', '.join(map(str, widths))} tokens")
    tokens = list(islice(cycle(TOKENS), context))
    taken = forward_seconds([model.engine for model in models], tokens, widths, ROUNDS, texts, clock)
    curves = [curve_of(model, seconds) for model, seconds in zip(models, taken, strict=True)]
    heads = _heads(manifest, models[0], tokens, widths, say, clock)
    say("copies of the weights")
    return Limits(context=context, texts=texts, hardware=hardware, target=curves[0],
                  draft=curves[1] if len(curves) > 1 else None, drafting=list(_drafting(manifest)), heads=heads,
                  bytes_per_second=copied_bytes_per_second(curves[0].weight_bytes, device, clock=clock))


def _same_machine(store: Store, hardware: dict[str, Any]) -> None:
    other = store.manifest.environment.get("hardware", {})
    if changed := [name for name in ("device", "cpu", "cores") if other.get(name) != hardware[name]]:
        raise UserError(f"{store.folder} was run on another machine ({changed[0]}: {other.get(changed[0])}, here "
                        f"{hardware[changed[0]]}); its limits can only be measured there.")


def _loaded(entry: ModelEntry, manifest: Manifest, device: str) -> Model:
    config = manifest.config
    rope = config.get("rope", "") if entry is manifest.model else ""
    model = load(entry.name, dtype=entry.dtype, device=device, tokenizer=config.get("tokenizer"),
                 compiled=bool(config.get("compile")), threads=int(manifest.environment.get("threads", 1)), rope=rope)
    if model.fingerprint != entry.fingerprint:
        raise UserError(f"'{entry.name}' is no longer the model of the run: its weights have changed.")
    return model


def _typical(store: Store, longest: int) -> tuple[int, int]:
    """Return the median length of prompt plus half the answer, and the maximum of new tokens in a decode step."""
    widths, halves = [1], []
    for cell in read(store).cells():
        halves.append(cell.turns["prompt_tokens"] + cell.per_turn(cell.steps["tokens"]) / 2)
        if len(cell.later):
            widths.append(int((cell.later["positions"] / cell.later["forwards"].clip(lower=1)).max()))
    if not halves:
        raise UserError(f"{store.folder} has no finished sample: run it first.")
    widest = max(1, min(max(widths), WIDTHS[-1], longest // 2))
    reserved = 2 * WIDTHS[sum(width < widest for width in WIDTHS)]
    return max(1, min(int(np.median(np.concatenate(halves))), longest - reserved)), widest


def curve_of(model: Model, seconds: dict[int, list[float]]) -> ForwardTimes:
    """Return the medians of what `forward_seconds` timed for a model."""
    net = model.engine.model
    size, table = sum(weight.nbytes for weight in net.parameters()), net.get_input_embeddings().weight
    if table is not net.get_output_embeddings().weight:  # a forward pass reads only a few of its rows
        size -= table.nbytes
    return ForwardTimes(tokens=list(seconds), seconds=[median(taken) for taken in seconds.values()],
                 weight_bytes=size, token_bytes=model.engine.cache.slot_bytes())


def _heads(manifest: Manifest, target: Model, context: Sequence[int], widths: Sequence[int], say: Callable[[str], None],
           clock: Clock) -> dict[str, HeadTimes]:
    """Return the times of the trained heads that the strategies of a run draft with, by strategy."""
    used, times = {entry.spec: entry.head for entry in manifest.strategies if entry.head}, dict[str, HeadTimes]()
    for head in {head.name: head for head in used.values()}.values():
        from harness.models.trained_head import load as load_head
        from harness.verify.head_times import head_times

        say(f"the head {head.name}")
        target.engine.heads[head.kind] = load_head(head.name, target)
        times[head.name] = head_times(target, target.engine.heads[head.kind], context, widths, ROUNDS, clock)
    return {spec: times[head.name] for spec, head in used.items()}


def _drafting(manifest: Manifest) -> list[str]:
    """Return the strategies that use the draft model."""
    known = set(STRATEGIES.names())
    return [entry.spec for entry in manifest.strategies
            if entry.name in known and "draft" in STRATEGIES.build(entry.spec).needs]
