"""Renoising: the schedule at its degenerate setting, and step by step what transformers accepts and when it ends."""

import math

import pytest
import torch
from transformers.models.diffusion_gemma import generation_diffusion_gemma as published

from harness.decoding.canvas_loop import drawn
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream, Stream
from harness.plugins.registry import STRATEGIES
from strategies.canvas_renoise import CanvasRenoise
from strategies.canvas_schedule import CanvasSchedule
from tests.canvases import MASK, random_canvas, settings, table
from tests.decode import decode, traced
from tests.models import prompts
from tests.scale import scaled

PROMPTS = [prompt * 2 for prompt in prompts(scaled(3, 8), 97, 1)]
NEW = 12


@pytest.mark.parametrize("heat", [0.0, 1.0])
@pytest.mark.parametrize("more", [{}, {"block": 8, "cache": "dual"}, {"block": 4, "cut": True}])
def test_without_a_bound_it_is_the_schedule(heat: float, more: dict[str, object]) -> None:
    rule = CanvasRenoise(gamma=0.0, sure=0.0, revise=False, temperature=heat, cooled=1.0, **more)  # type: ignore[arg-type]
    schedule = CanvasSchedule(order="entropy", temperature=heat, **more)  # type: ignore[arg-type]
    for prompt in PROMPTS:
        found, wanted = (traced(one, random_canvas(), prompt, new=20) for one in (rule, schedule))
        assert found[0] == wanted[0]
        assert found[1].forwards == wanted[1].forwards


def noise(count: int, vocab: int, stream: Stream | None) -> torch.Tensor:
    """Masks, or as many tokens that are no mask."""
    if stream is None:
        return torch.full((1, count), MASK)
    return 1 + (stream.uniform(count) * (vocab - 1)).long()[None]  # the mask is token 0


class Published(published.EntropyBoundSampler):  # type: ignore[misc]
    """Its random canvas is given, and only the places that it puts into the text are drawn."""

    def __init__(self, gamma: float, count: int, vocab: int, stream: Stream | None) -> None:
        super().__init__(published.EntropyBoundSamplerConfig(entropy_bound=gamma), count, vocab, 48)
        self.stream = stream

    def initialize_canvas(self, batch_size: int, device: torch.device) -> torch.Tensor:
        rest = torch.ones(1, self.canvas_length, dtype=torch.bool)
        if self.accepted_token_mask is not None:
            rest = ~self.accepted_token_mask
        found = torch.zeros(1, self.canvas_length, dtype=torch.long)
        found[rest] = noise(int(rest.sum()), self.vocab_size, self.stream)
        return found


@torch.inference_mode()
def by_the_published_code(rule: CanvasRenoise, engine: Engine, prompt: list[int], stream: Stream) -> tuple[
        list[int], int]:
    """The text of one canvas, and the forwards that it took; draws come from the same stream, as do random tokens."""
    size = len(prompt) + NEW
    sampler = Published(rule.gamma, NEW, 97, stream if rule.noise == "random" else None)
    ends = published.StableAndConfidentStoppingCriteria(1, rule.sure)
    heated = published.LinearTemperatureScheduleLogitsProcessor(rule.temperature * rule.cooled, rule.temperature,
                                                                rule.steps)
    canvas, best = sampler.initialize_canvas(1, torch.device("cpu")), torch.zeros(1, NEW)
    for left in range(rule.steps, 0, -1):
        logits = engine.model(input_ids=torch.cat([torch.tensor([prompt]), canvas], 1),
                              attention_mask=torch.zeros(1, 1, size, size), use_cache=False).logits[:, -NEW:].float()
        logits[..., MASK] = -math.inf
        logits = heated(None, logits, left)
        best = logits.argmax(-1)
        tokens = drawn(logits[0], 1.0, stream)[None]
        finite = logits.clamp_min(-1e9)  # its entropy of a logit of −∞ is not a number
        accepted = sampler.accept_canvas(canvas, tokens, finite, left)
        if ends(best, finite):
            return best[0].tolist(), rule.steps + 1 - left
        canvas = sampler.renoise_canvas(accepted, left)
    return best[0].tolist(), rule.steps


@pytest.mark.parametrize("shown", ["mask", "random"])
@pytest.mark.parametrize(("gamma", "sure", "steps"), [(0.1, 0.005, 6), (1.0, 5.0, 20), (0.3, 1.0, 48)])
def test_it_accepts_and_ends_as_the_published_code_does(shown: str, gamma: float, sure: float, steps: int) -> None:
    rule, forwards = CanvasRenoise(gamma=gamma, noise=shown, sure=sure, steps=steps), set[int]()
    for number, prompt in enumerate(PROMPTS):
        wanted, count = by_the_published_code(rule, random_canvas(), prompt, PhiloxStream(number))
        found, work, _ = traced(rule, random_canvas(), prompt, new=NEW, eos=None, stream=PhiloxStream(number))
        assert (found, work.forwards) == (wanted, count)
        forwards.add(count)
    assert max(forwards) <= steps


@pytest.mark.parametrize("shown", ["mask", "random"])
@pytest.mark.parametrize("revise", ["false", "true"])
def test_a_window_takes_no_more_than_its_steps(revise: str, shown: str) -> None:
    for shift, block, both in settings():
        rule = STRATEGIES.build(f"canvas_renoise:block=8,steps=5,revise={revise},noise={shown}")
        found, work, _ = traced(rule, random_canvas(shift, block, both), PROMPTS[0], new=16, eos=None)
        assert len(found) == len(work.filled) == 16
        assert MASK not in found
        assert work.forwards <= 5 * (2 if not block else 5)


@pytest.mark.parametrize("shown", ["mask", "random"])
def test_with_the_cache_of_blocks_no_token_changes(shown: str) -> None:
    engine = random_canvas(True, 4)
    for prompt in PROMPTS:
        with_cache, without = (decode(STRATEGIES.build(f"canvas_renoise:cache={cache},noise={shown},steps=6"), engine,
                                      prompt, new=NEW, eos=None) for cache in ("block", "none"))
        assert with_cache == without


def test_what_one_token_decides_is_accepted_once_it_is_there() -> None:
    """Where one place decides all others, the text is one of the two, which tokens drawn at once are not."""
    joint = {(1, 3, 5): 1.0, (2, 4, 6): 1.0}
    for spec in ("canvas_renoise", "canvas_renoise:revise=false"):
        found = {tuple(decode(STRATEGIES.build(spec), table(joint), [MASK], new=3, eos=None, stream=PhiloxStream(i)))
                 for i in range(20)}
        assert found == set(joint)
