"""SEA-GUIDE: which slots attention marks as mentioned, and the order of the hypotheses that follows."""

from contextlib import closing
from typing import Any

import pytest
import torch

from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.strategy import Request, RequestText
from strategies.beam import Beam
from strategies.sea_guide import SeaGuide, Step, slot_spans, watched
from tests.pair import tokenizer
from tests.seq2seq import EOS, engine

PROMPT = "Facts: name[Blue Spice], food[Thai], seats[40]\nText:"
ABOVE = {"sure": 2.0, "likely": 2.0, "left": 2.0}


def request(target: Any, wanted: tuple[tuple[str, ...], ...] = (), prompt: str = PROMPT, new: int = 12) -> Request:
    words = tokenizer()
    text = RequestText(prompt, lambda one: words(one).input_ids, lambda one: words(one).input_ids, words.decode,
                       lambda one: None, wanted, tokenizer=words)
    source = words(prompt).input_ids
    return Request(target.prefix, new, PhiloxStream(0), frozenset({EOS}), text=text, source=tuple(source))


@pytest.fixture
def target() -> Any:
    return engine("bart", vocab=len(tokenizer()))


def searched(strategy: Beam, target: Any, asked: Request) -> list[tuple[int, ...]]:
    with torch.inference_mode(), closing(Session(target)) as session:
        session.begin(asked.source)
        return [one.tokens for one in strategy.search(session, asked)]


def test_thresholds_above_one_keep_the_order_of_the_beams(target: Any) -> None:
    asked, knobs = request(target), {"width": 5, "early_stopping": "true"}
    assert searched(SeaGuide(**knobs, **ABOVE), target, asked) == searched(Beam(**knobs), target, asked)


def test_the_hypotheses_are_those_of_the_beams_in_the_order_of_their_slots(target: Any) -> None:
    many = "a[" + "], b[".join("kqzxvwjy") + "]"
    asked, orders = request(target, prompt=many, new=6), set[tuple[tuple[int, ...], ...]]()
    plain = searched(Beam(width=5, early_stopping="true"), target, asked)
    for likely in (0.2, 0.4, 0.6, 0.8, 0.95):
        strategy = SeaGuide(width=5, sure=2.0, likely=likely, left=2.0)
        found = searched(strategy, target, asked)
        assert sorted(found) == sorted(plain)
        with torch.inference_mode(), closing(Session(target)) as session:
            session.begin(asked.source)
            beams = Beam(width=5, early_stopping="true").search(session, asked)
            spans = slot_spans(asked.text, asked.source)
            missing = [strategy.marks(steps).count(False) for steps in watched(session, asked, beams, spans)]
        assert found == [plain[place] for place in sorted(range(len(plain)), key=missing.__getitem__)]
        orders.add(tuple(found))
    assert len(orders) > 1  # else the slots would decide nothing


@pytest.mark.parametrize("kind", ["bart", "t5", "marian"])
@torch.inference_mode()
def test_attention_is_that_of_a_plain_forward(kind: str) -> None:
    target = engine(kind, vocab=len(tokenizer()))
    asked = request(target)
    with closing(Session(target)) as session:
        session.begin(asked.source)
        found = Beam(width=4).search(session, asked)
        spans = [(place, place + 1) for place in range(len(asked.source))]  # each token a slot
        seen = watched(session, asked, found, spans)
    model = target.model
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    for one, steps in zip(found, seen, strict=True):
        given = torch.tensor([[*asked.prompt, *one.tokens[:-1]]])
        plain = model(input_ids=torch.tensor([asked.source]), decoder_input_ids=given, output_attentions=True)
        wanted = torch.stack([layer[0].amax(0) for layer in plain.cross_attentions], 1)
        half = max(1, wanted.shape[1] // 2)
        assert torch.allclose(torch.tensor([step.whole for step in steps]), wanted.mean(1), atol=1e-3)
        assert torch.allclose(torch.tensor([step.lower for step in steps]), wanted[:, :half].mean(1), atol=1e-3)
        assert torch.allclose(torch.tensor([step.first for step in steps]), wanted[:, 0].amax(-1), atol=1e-3)
        assert [step.top for step in steps] == wanted[:, 0].argmax(-1).tolist()
        assert [step.last for step in steps] == [token == EOS for token in plain.logits[0].argmax(-1).tolist()]
    model.set_attn_implementation(before)


def test_slots_are_values_in_brackets_or_else_wanted_phrases(target: Any) -> None:
    asked = request(target)
    assert asked.text is not None
    words = [tokenizer().decode(asked.source[start:end]).strip() for start, end in slot_spans(asked.text, asked.source)]
    assert words == ["Blue Spice", "Thai", "40"]
    asked = request(target, (("red",), ("old", "new")), "Write about a red and an old car.")
    words = [tokenizer().decode(asked.source[start:end]).strip() for start, end in slot_spans(asked.text, asked.source)]
    assert words == ["red", "old"]
    with pytest.raises(Unsupported, match="which tokens of the source"):
        slot_spans(asked.text, [1, 2, 3])


def marks(*steps: tuple[int | None, float, list[float], list[float], bool]) -> list[bool]:
    return SeaGuide().marks([Step(*step) for step in steps])


NONE = [0.0, 0.0, 0.0]


def test_attention_of_the_first_layer_marks_the_slot_that_it_is_on() -> None:
    assert marks((0, 0.95, NONE, NONE, False)) == [True, False, False]
    assert marks((1, 0.5, [0.0, 0.35, 0.0], NONE, False)) == [False, True, False]  # likely enough
    assert marks((None, 0.95, [0.25, 0.25, 0.25], NONE, False)) == [False, False, False]


def test_attention_before_the_end_takes_back_marks_that_are_not_sure() -> None:
    likely, sure = (1, 0.5, [0.0, 0.5, 0.0], NONE, False), (0, 0.95, NONE, NONE, False)
    assert marks(likely, sure) == [True, True, False]
    assert marks(likely, sure, (None, 0.2, [0.5, 0.5, 0.5], [0.2, 0.2, 0.0], True)) == [True, False, False]
