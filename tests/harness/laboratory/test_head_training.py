"""Heads that learn a language in which the next token follows from the last one must draft all of their depth."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from harness.engine.engine import Engine
from harness.heads.network import Network, TargetParts, settings_of
from harness.laboratory.training import acceptance, rate_at, train
from harness.models.trained_head import Card, Head
from harness.plugins.registry import STRATEGIES
from tests.decode import traced
from tests.heads import kinds
from tests.walks import LENGTH, SIZE, VOCAB, model, read, walk, write

SMALL = {"unroll": 3, "block": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    write(folder := tmp_path_factory.mktemp("corpus") / "answers")
    return folder


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_a_head_drafts_all_of_its_depth_in_a_language_without_choices(kind: str, data: Path) -> None:
    engine = model()
    network = fresh(kind, engine)
    walks = read(data, network)
    points = train(network, walks, walks, 200 * network.stride, size=8)
    assert [row[0] for row in points[-1].ranks] == [1] * network.depth
    card = Card(kind=kind, target="", fingerprint="", hidden=SIZE, vocab=VOCAB, ranks=points[-1].ranks)
    engine.heads[kind] = Head("", card, network.eval().requires_grad_(False), "")
    depth = network.depth
    size = next((f":{knob}={depth}" for knob in ("nodes", "depth") if knob in STRATEGIES.get(kind).knobs()), "")
    with torch.inference_mode():
        tokens, work, drafting = traced(STRATEGIES.build(kind + size), engine, walk(3, 2),
                                        new=1 + 2 * (depth + 1), eos=None)
    assert tokens == walk(3, 2 + len(tokens))[2:]
    assert work.forwards == 1 + 2
    assert work.accepted == 2 * depth
    assert drafting.forwards > 0


def test_a_training_that_was_stopped_goes_on_as_if_it_had_not_been(data: Path, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.laboratory.training.REPORT", 3)
    engine, kept = model(), tmp_path / "kept.pt"
    walks = read(data, one := fresh("medusa", engine))
    whole = train(one, walks, walks, 9, size=8)

    class Stopped(Exception):
        pass

    def stop(point: object) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        train(fresh("medusa", engine), walks, walks, 9, size=8, tell=stop, kept=kept)
    rest = train(other := fresh("medusa", engine), walks, walks, 9, size=8, kept=kept)
    assert [point.step for point in rest] == [3, 6, 9]
    assert [point.loss for point in rest] == pytest.approx([point.loss for point in whole])
    for weight, same in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, same)


def fresh(kind: str, engine: Engine) -> Network:
    """A network that drafts three or four tokens and is trained behind every other one at least, to be quick."""
    torch.manual_seed(0)
    network = kinds()[kind]
    small = {field.name: SMALL[field.name] for field in fields(network.Settings) if field.name in SMALL}
    found = network(TargetParts.of(engine), settings_of(network, small))
    found.stride = min(2, found.stride)
    return found


def test_shares_of_ranks_count_only_what_follows_right_tokens(data: Path) -> None:
    """Depth 0 is right where the next but one token is even, depth 1 always: it is asked only after those."""
    class Half(Network):
        depth = 2

        def forward(self, states: torch.Tensor, tokens: torch.Tensor, first: int = 0) -> list[torch.Tensor]:
            ahead = [tokens.roll(-2 - depth, 1) for depth in range(2)]
            ahead[0] = torch.where(ahead[0] % 2 == 0, ahead[0], (ahead[0] + 1) % VOCAB)
            return [torch.nn.functional.one_hot(one[:, first:], VOCAB).float() for one in ahead]

        def logits(self, depth: int, features: torch.Tensor) -> torch.Tensor:
            return features

    network = Half(TargetParts.of(model()), None)
    network.some = torch.nn.Parameter(torch.zeros(1))
    first, second = acceptance(network, read(data, network))
    answers = [walk(start, LENGTH)[3:] for start in range(VOCAB)]  # the first token of an answer is never drafted
    even = [token % 2 == 0 for answer in answers for token in answer]
    assert first[0] == pytest.approx(sum(even) / len(even), abs=1e-4)
    assert second[0] == 1


def test_the_rate_warms_up_and_falls() -> None:
    rates = [rate_at(step, 100) for step in range(1, 101)]
    assert rates[0] == pytest.approx(1 / 30, rel=0.01)
    assert max(rates) == max(rates[25:40])
    assert rates[-1] == pytest.approx(0.1)
