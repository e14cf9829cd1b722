"""Weights adapted to the prompt: the rules by hand, answers of a model that torch trains itself, and what stays."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from harness.backends.transformers import open_session
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.products import use_fast_products
from harness.plugins.strategy import Request
from strategies.dynamic_evaluation import DynamicEvaluation
from strategies.greedy import Greedy
from strategies.parts.learner import Learner, Rule, root_mean_squares
from strategies.top_p import TopP
from tests.decode import decode, engine, words
from tests.models import prompts, tiny_model

ARCHS = ("llama", "qwen2", "gpt2", "opt")  # the last three have tied embeddings
FAST = {"rate": 0.3, "segment": 5}
TEXT = prompts(1, 97, 8)[0] * 3


@cache
def target(arch: str = "llama") -> Engine:
    model = tiny_model(arch, layers=2)
    use_fast_products(model)
    return engine(model)


def losses(model: Any, tokens: Sequence[int], first: int) -> Tensor:
    logits = model(torch.tensor([list(tokens)])).logits[0, first - 1:-1]
    return functional.cross_entropy(logits, torch.tensor(list(tokens[first:])), reduction="none")


class Trained:
    """A model that torch's own optimiser trains on segments."""

    def __init__(self, arch: str, rate: float, context: int = 256, last: bool = False) -> None:
        self.model, self.context = tiny_model(arch, layers=3 if last else 2), context
        weights = [*self.model.model.layers[-2:].parameters()] if last else [*self.model.parameters()]
        self.optimiser = torch.optim.SGD(weights, lr=rate)

    def learn(self, tokens: Sequence[int], first: int, size: int) -> None:
        for start in range(first, len(tokens), size):
            begin = max(0, start - self.context)
            self.optimiser.zero_grad()
            losses(self.model, tokens[begin:start + size], start - begin).mean().backward()
            self.optimiser.step()

    def best(self, text: Sequence[int]) -> int:
        with torch.no_grad():
            return int(self.model(torch.tensor([list(text)])).logits[0, -1].argmax())


def by_torch(arch: str, prompt: Sequence[int], new: int, own: int = 0, context: int = 256) -> list[int]:
    trained, text = Trained(arch, FAST["rate"], context), list(prompt)
    trained.learn(text, 1, 5)
    while len(text) < len(prompt) + new:
        if own and len(text) > len(prompt) and (len(text) - len(prompt)) % own == 0:
            trained.learn(text, len(text) - own, own)
        text.append(trained.best(text))
    return text[len(prompt):]


@pytest.mark.parametrize(("knobs", "more"), [({}, {}), ({"own": 4}, {"own": 4}), ({"context": 3}, {"context": 3})])
@pytest.mark.parametrize("arch", ARCHS)
def test_answers_are_those_of_a_model_that_torch_trains(arch: str, knobs: Any, more: Any) -> None:
    differ = 0
    for prompt in (prompt * 2 for prompt in prompts(2, 97, 6)):
        found = decode(DynamicEvaluation(**FAST, **knobs), target(arch), prompt, new=10, eos=None)
        assert found == by_torch(arch, prompt, 10, **more)
        differ += found != decode(Greedy(), target(arch), prompt, new=10, eos=None)
    assert differ


def test_the_last_two_layers_alone_can_be_adapted() -> None:
    trained, deep = Trained("llama", 0.1, last=True), engine(tiny_model("llama", layers=3))
    trained.learn(TEXT, 1, 5)
    with closing(Session(deep)) as session:
        learner = Learner(session, "last", 256, Rule(0.1, 0.0))
        assert len(list(learner.learn(TEXT, 1, 5))) == -(-(len(TEXT) - 1) // 5)
    new = dict(trained.model.named_parameters())
    assert {name.split(".")[2] for name in learner.hook.weights} == {"1", "2"}
    assert all(torch.allclose(weight, new[name], atol=1e-4) for name, weight in learner.hook.weights.items())
    assert not all(torch.allclose(weight, learner.first[name]) for name, weight in learner.hook.weights.items())


def test_the_numbers_of_the_rules() -> None:
    scale = {"a": torch.tensor([0.25]), "b": torch.tensor([0.75])}  # 0.5 on average
    rule = Rule(0.1, 0.02, scale, epsilon=0.0)
    first, weight, gradient = torch.tensor([1.0]), torch.tensor([1.2]), torch.tensor([0.5])
    assert rule.step("a", weight, first, gradient).item() == pytest.approx(0.998)
    assert rule.step("b", weight, first, gradient).item() == pytest.approx(1.2 - 0.006 - 0.1 * 0.5 / 0.75)
    assert Rule(0.1, 0.9, {"a": torch.tensor([9.0]), "b": torch.tensor([0.1])}, 0.0).step(
        "a", weight, first, torch.zeros(1)).item() == pytest.approx(1.0), "never beyond the first value"
    assert Rule(0.1, 0.02).step("a", weight, first, gradient).item() == pytest.approx(1.2 - 0.004 - 0.05)


def test_each_segment_is_scored_before_it_is_learnt() -> None:
    model = target().model
    with closing(Session(target())) as session, torch.inference_mode():
        learner = Learner(session, "all", 256, Rule(0.3, 0.0))
        scores = list(learner.learn(TEXT * 2, 1, len(TEXT) - 1))
        assert torch.allclose(scores[0], losses(model, TEXT, 1), atol=1e-5)
        static = losses(model, TEXT * 2, 1)
        assert torch.cat(scores).shape == static.shape
        assert torch.cat(scores)[len(TEXT):].mean() < static[len(TEXT):].mean() - 0.5, "what repeats is learnt"


def test_without_a_rate_it_is_top_p() -> None:
    for prompt in prompts(3, 97, 6):
        found = decode(DynamicEvaluation(rate=0.0, decay=0.5, temperature=1.0, p=0.8), target(), prompt)
        assert found == decode(TopP(p=0.8), target(), prompt)
        assert decode(DynamicEvaluation(rate=0.0), target(), prompt) == decode(Greedy(), target(), prompt)
        tiny = DynamicEvaluation(rate=1e-9, temperature=1.0, p=0.8)
        assert decode(tiny, target(), prompt) == decode(TopP(p=0.8), target(), prompt)


class Stop(Exception):
    """Raised in the middle of a step."""


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_as_before_whatever_happens(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    own = engine(tiny_model("qwen2", layers=2))
    before = {name: (weight, weight.clone()) for name, weight in own.model.named_parameters(remove_duplicate=False)}
    prompt = TEXT[:12]
    plain = decode(Greedy(), own, prompt)
    layer = own.parts.layers[1].whole
    forward, calls = layer.forward, list[int]()

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if broken and len(calls) == 3:
            raise Stop
        return forward(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(layer, "forward", failing)
        session = open_session(DynamicEvaluation(), [own])
        steps = DynamicEvaluation(**FAST, own=2).generate(session, Request(tuple(prompt), 20, PhiloxStream(0)))
        try:
            for _ in range(5):
                next(iter(steps))
            assert not broken
        except Stop:
            assert broken
        session.close()
    after = dict(own.model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[name] is weight and torch.equal(weight, copy) for name, (weight, copy) in before.items())
    assert not any("forward" in module.__dict__ for module in own.model.modules())
    assert all(weight.grad is None for weight in after.values())
    assert decode(Greedy(), own, prompt) == plain
    assert own.open_rows == 0


@torch.inference_mode()
def test_several_answers_at_once_are_those_alone() -> None:
    method = DynamicEvaluation(**FAST, own=3)
    jobs = [partial(decode, method, target(), prompt, new=9) for prompt in prompts(4, 97, 4)]
    assert run_batched([target()], jobs, 4) == [job() for job in jobs]


def test_tokens_that_belong_to_the_answer_are_learnt_like_those_just_written() -> None:
    method = DynamicEvaluation(**FAST, own=4)
    whole = decode(method, target(), TEXT, new=12, eos=None)
    session, found = Session(target()), list[int]()
    request = Request(tuple(TEXT), 12, PhiloxStream(0)).behind(whole[:6])
    for block in method.generate(session, request):
        found += block
        if len(found) == 6:
            break
    session.close()
    assert found == whole[6:]


@pytest.mark.parametrize(("own", "forwards", "positions"), [
    (0, 2 + 3, (1 + 5) + (4 + 5) + 11 + 2), (2, 2 + 2 + 1 + 1, (1 + 5) + (4 + 5) + 11 + 1 + (4 + 2) + 13)])
def test_every_forward_is_counted(own: int, forwards: int, positions: int) -> None:
    """Those of gradient steps with their context, and after a step on the answer a new prefill of everything."""
    session, before = Session(target()), target().positions
    method = DynamicEvaluation(rate=0.3, segment=5, context=4, own=own)
    steps = iter(method.generate(session, Request(tuple(TEXT[:11]), 9, PhiloxStream(0))))
    for _ in range(3):
        next(steps)
    assert session.work.forwards == forwards
    assert session.work.positions == positions == target().positions - before
    session.close()


def test_the_scale_of_gradients_is_that_of_a_file_of_texts(tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("t5 t6 t7 t8 t9 t10\n\nt20 t21 t22\nt9\n")
    encode = words([5], 97).encode
    found = root_mean_squares(target(), "all", 3, 2, str(file), encode)
    model, squares = tiny_model("llama", layers=2), list[dict[str, Tensor]]()
    for tokens, first in (([5, 6, 7, 8], 1), ([7, 8, 9, 10], 2), ([20, 21, 22], 1)):
        model.zero_grad()
        losses(model, tokens, first).mean().backward()
        squares.append({name: weight.grad.square() for name, weight in model.named_parameters()
                        if weight.grad is not None})
    for name, scale in found.items():
        assert torch.allclose(scale, (sum(each[name] for each in squares) / torch.tensor(3)).sqrt(), atol=1e-5)
    method = DynamicEvaluation(rule="rms", statistics=str(file), rate=1e-3, decay=0.002, segment=3, context=2)
    assert decode(method, target(), TEXT, new=4) == decode(method, target(), TEXT, new=4)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="has no text of two tokens"):
        decode(DynamicEvaluation(rule="rms", statistics=str(tmp_path / "empty.txt")), target(), TEXT)
    with pytest.raises(UserError, match="rule=rms needs statistics="):
        DynamicEvaluation(rule="rms")
