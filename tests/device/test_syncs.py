"""Every strategy on a device that refuses mixed tensors and counts each wait of the host for it."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from scipy.stats import kstest

from harness.backends.transformers import open_session
from harness.engine.canvas_settings import CanvasSettings
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream, gumbel
from harness.heads.network import TargetParts
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy
from strategies.greedy import Greedy
from tests.decode import built, words
from tests.heads import untrained
from tests.models import MAX_POSITIONS, PAD, prompts, tiny_model
from tests.scale import scaled
from tests.strict_device import DEVICE, MixedDevices, OnDevice, moved, strict

USUAL, NEW = 2, scaled(6, 12)
ABOVE = {
    "beam": 5, "beam_sample": 7, "canvas_oracle": 4, "conditional_beam": 13, "constrained_beam": 12,
    "contrastive_decoding": 4, "contrastive_search": 3, "dba": 12, "diverse_beam": 10, "extended_decoding": 8, "fsd": 3,
    "fsd_vec": 3, "grid_beam": 6, "momentum": 3, "neurologic": 51, "neurologic_astar": 23, "power_rollouts": 9,
    "sea_guide": 5, "seal": 5, "stochastic_beam": 9, "superposed": 3, "uid_beam": 10,
}
"""Syncs a step beyond draft forwards where they are more than USUAL; a forward, where an answer comes whole or masks
are filled."""
FIXED = {"contrastive_decoding": (0.0,), "stochastic_beam": (0.8,), "superposed": (0.8,), "xtc": (0.8,)}
"""The temperatures of strategies that do not take both."""


def cases() -> Iterator[Any]:
    """Every strategy and temperature; `make test` takes the higher one, where more is sampled."""
    for name in sorted(STRATEGIES.built_in()):
        both = "temperature" in STRATEGIES.get(name).knobs() and name not in FIXED
        for temperature in (0.0, 0.8) if both else FIXED.get(name, (None,)):
            yield pytest.param(name, temperature, marks=[pytest.mark.slow] if both and not temperature else [])


def most_syncs(strategy: Strategy, between: Callable[[], Any] = lambda: None) -> float:
    """Return the maximum syncs of a step after the first, minus draft forwards; with one step, those of a forward."""
    head = untrained(strategy.head_kind, Engine(tiny_model("llama"), MAX_POSITIONS)) if strategy.head_kind else None
    if head:
        moved(head.network)
    with strict() as rules, torch.inference_mode():
        target, draft = (Engine(moved(tiny_model("llama", seed=seed)), MAX_POSITIONS) for seed in (0, 1))
        target.canvas = draft.canvas = CanvasSettings(PAD)
        if head:
            head.network.target = TargetParts.of(target)
            target.heads[strategy.head_kind] = head
        session = open_session(strategy, [target, draft])
        prompt = prompts(1, 97, 3)[0] * 2
        request = Request(tuple(prompt), NEW, PhiloxStream(0, 1), frozenset(), 0, text=words(prompt, 97))
        counts, written = [0], 0
        for step in strategy.generate(session, request):
            between()
            counts.append(rules.syncs - session.draft_work.forwards)
            written += len(step)
            if written >= NEW:
                break
        if len(counts) == 2 or "canvas" in strategy.needs:  # a step may take several forwards
            return counts[-1] / session.work.forwards
        return max(after - before for before, after in pairwise(counts[1:]))


@pytest.mark.parametrize(("name", "temperature"), list(cases()))
def test_a_strategy_keeps_to_its_device_and_its_syncs(name: str, temperature: float | None) -> None:
    strategy = built(name, 97, "" if temperature is None else f"temperature={temperature}")
    assert 0 < most_syncs(strategy) <= (1 if name == "greedy" else ABOVE.get(name, USUAL))


def test_noise_is_drawn_on_the_device() -> None:
    """From the sample's own stream, without an upload or a wait, and other noise at each draw."""
    with strict() as rules:
        streams = [PhiloxStream(key) for key in (1, 1, 2)]
        one, same, other = (stream.uniform(4000, DEVICE) for stream in streams)
        again = streams[0].uniform(4000, DEVICE)
        noise = gumbel(streams[0], 4000, DEVICE)
    assert (rules.syncs, rules.uploads) == (0, 0)
    assert isinstance(noise, OnDevice)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, again)
    assert streams[0].uniform(1) != streams[1].uniform(1), "a draw moves the stream on"
    for numbers in (one, other, again, torch.exp(-torch.exp(-noise))):
        assert kstest(numbers.as_subclass(torch.Tensor).numpy(), "uniform").pvalue > 1e-3


def test_a_planted_sync_is_counted() -> None:
    extra: list[torch.Tensor] = []

    def waits() -> None:
        extra.append(torch.ones(3, device=DEVICE))
        assert bool(extra[-1].sum() > 2)
    assert most_syncs(Greedy()) == 1
    assert most_syncs(Greedy(), waits) == 2


def test_a_planted_mix_of_devices_is_refused() -> None:
    with pytest.raises(MixedDevices):
        most_syncs(Greedy(), lambda: torch.ones(3, device=DEVICE) + torch.ones(3))


@pytest.mark.parametrize(("use", "syncs"), [
    (lambda t: t.tolist(), 1), (lambda t: int(t[0]), 1), (lambda t: t.nonzero(), 1), (lambda t: t[t > 1], 1),
    (lambda t: t.cpu(), 1), (lambda t: t.to("cpu"), 1), (lambda t: t[t.argmax()], 1), (lambda t: t.topk(1), 0),
    (lambda t: t.masked_fill(t > 1, 0), 0), (lambda t: t[[0, 1]], 0), (lambda t: t * torch.tensor(2), 0)])
def test_what_counts_as_a_sync(use: Callable[[torch.Tensor], Any], syncs: int) -> None:
    with strict() as rules:
        use(torch.arange(3, device=DEVICE))
    assert rules.syncs == syncs
