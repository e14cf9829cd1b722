"""CoT-decoding: the answers of several first tokens, and how sure the model is of them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from harness.decoding.confidence import gap
from harness.decoding.samples import scored
from harness.engine.session import Session
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import RequestText
from strategies.cot_decoding import CotDecoding, place
from strategies.greedy import Greedy
from tests.decode import decode, engine
from tests.markov import START, letters, markov
from tests.models import prompts, tiny_model
from tests.scale import scaled
from tests.strategies.test_many_samples import TEXT, asked, spelt, written


@torch.inference_mode()
def test_how_sure_the_paths_of_the_chain_are() -> None:
    session = Session(markov())
    for text, gaps, mean in (("abab", (.1, .1, .15, .1), .1125), ("baba", (.1, .15, .1, .15), .125)):
        tokens = spelt(text)[0]
        found = scored(session, [START], tokens, lambda logits, part: gap(logits))
        assert found.tolist() == pytest.approx(gaps, abs=1e-6)
        sure = CotDecoding(over=Greedy()).sureness(session, asked(), list(tokens), TEXT.decode(tokens))
        assert sure == pytest.approx(mean, abs=1e-6)
    paths = CotDecoding(over=Greedy(), k=9).texts(session, asked())
    assert [letters(path) for path in paths] == ["abab", "baba", "$"]
    for vote in ("path", "sum"):
        assert written(CotDecoding(over=Greedy(), k=2, vote=vote)) == "baba"
        assert written(CotDecoding(over=Greedy(), k=1, vote=vote)) == "abab"


@torch.inference_mode()
def test_an_answer_is_elected_by_its_texts_or_by_the_surest() -> None:
    """The paths are `abab` (Δ .1125), `baba` (.125) and `$` (.1)."""
    first = replace(TEXT, answer=lambda text: None if text[:1] == "b" else text[:1] or None)
    assert written(CotDecoding(over=Greedy(), k=3, vote="sum"), asked(text=first)) == "abab", "baba has no answer"
    assert written(CotDecoding(over=Greedy(), k=3, vote="path"), asked(text=first)) == "abab"
    none = replace(TEXT, answer=lambda text: None)
    assert written(CotDecoding(over=Greedy(), k=3, vote="path"), asked(text=none)) == "baba"
    pair = replace(TEXT, answer=lambda text: "a" if text == "b a b a" else "b")
    after = [letters(path) for path in CotDecoding(over=Greedy(), skip=1, k=3).texts(Session(markov()), asked())]
    assert after == ["abab", "a$", "aaba"]
    assert written(CotDecoding(over=Greedy(), k=3, vote="sum"), asked(text=pair)) == "abab", ".1 and .1 against .15"
    assert written(CotDecoding(over=Greedy(), k=3, vote="path"), asked(text=pair)) == "baba"


@torch.inference_mode()
@pytest.mark.parametrize("skip", [0, 3, 40])
def test_one_first_token_is_greedy_and_others_are_forced(skip: int) -> None:
    target = engine(tiny_model("llama"))
    for prompt in prompts(scaled(2, 5), 97, 6):
        greedy = decode(Greedy(), target, prompt, new=20)
        assert decode(STRATEGIES.build(f"cot_decoding:k=1,skip={skip}"), target, prompt, new=20) == greedy
        session = Session(target)
        request = replace(asked(text=None), prompt=tuple(prompt), max_new_tokens=20, eos=frozenset())
        found = CotDecoding(over=Greedy(), k=4, skip=skip).texts(session, request)
        assert len(found) == (1 if skip == 40 else 4)
        session.follow([*prompt, *found[0][:skip]])
        likeliest = session.read().logits[0].topk(4).indices.tolist()
        for text, token in zip(found, likeliest, strict=False):
            rest = [*found[0][:skip], token] if skip < 40 else text[:skip]
            assert text == [*rest, *decode(Greedy(), target, [*prompt, *rest], new=20 - len(rest), eos=None)][:20]


def spelling(pieces: Sequence[str]) -> RequestText:
    """Return a text whose token i is the i-th of `pieces`."""
    return RequestText("", lambda text: [], lambda text: [], lambda tokens: "".join(pieces[i] for i in tokens), str)


@pytest.mark.parametrize(("pieces", "answer", "tokens"), [
    (["It", " is", " 1", "8", ".", ""], "18", ["1", "8"]),
    (["18", " and", " 18", " more"], "18", [" 18"]),
    (["is", " 1", ",", "2", "34", "."], "1234", [" 1", ",", "2", "34"]),
    (["A", "n", " A", " was", " A", "ll"], "A", [" A"]),
    (["x", "18y"], "18", ["18y"]),
    (["no", "thing"], "7", ["no", "thing"]),
    ([" yes", " it is "], "yes it is", [" yes", " it is "]),
    (["a(", "b", ")*"], "(b)*", ["a(", "b", ")*"]),
])
def test_the_place_of_an_answer(pieces: list[str], answer: str, tokens: list[str]) -> None:
    wanted = [piece.strip() for piece in tokens]
    found = pieces[place(spelling(pieces), range(len(pieces)), answer)]
    assert [piece.strip() for piece in found] == wanted


@torch.inference_mode()
def test_only_the_tokens_of_the_answer_count() -> None:
    """The gaps of `abab` are .1, .1, .15 and .1; the last place of an answer counts."""
    session = Session(markov())
    (text,) = spelt("abab")
    strategy = CotDecoding(over=Greedy())
    joined = replace(TEXT, decode=lambda tokens: letters(list(tokens)))
    request = asked(text=joined)
    assert strategy.sureness(session, request, list(text), "aba") == pytest.approx((.1 + .1 + .15) / 3, abs=1e-6)
    assert strategy.sureness(session, request, list(text), "ab") == pytest.approx((.15 + .1) / 2, abs=1e-6)
    assert strategy.sureness(session, request, list(text), "z") == pytest.approx(.1125, abs=1e-6)
