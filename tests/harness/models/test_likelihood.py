"""Scoring of texts that are written, against the chain of the sheet, the session's own readings and hand counts."""

import math
import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.engine.hooks import HIDDEN
from harness.engine.session import Session
from harness.models import likelihood
from harness.models.likelihood import Text, fitted, score_answers, token_rep
from harness.models.loading import Model
from tests.decode import engine
from tests.markov import END, START, A, B, markov
from tests.models import tiny_model

VOCAB = 97


def model(arch: str = "llama") -> Model:
    return Model(arch, engine(tiny_model(arch, vocab=VOCAB)), None, frozenset(), "")


def drawn(count: int, seed: int = 0) -> list[Text]:
    rng = random.Random(seed)
    return [(tuple(rng.choices(range(3, VOCAB), k=rng.randint(1, 30))),
             tuple(rng.choices(range(3, VOCAB), k=rng.randint(0, 40)))) for _ in range(count)]


def test_the_chain_of_the_sheet() -> None:
    chain = Model("chain", markov(), None, frozenset({END}), "")
    texts: list[Text] = [((START,), answer) for answer in ((A, B, A, B), (END,), (A, END), (B, END))]
    seen = score_answers(chain, texts)
    assert [seen[text].logp for text in texts] == pytest.approx([-2.7826, -1.6094, -1.7148, -1.9661], abs=5e-5)
    abab = seen[texts[0]]
    assert (abab.greedy, abab.rep) == (1, 0.5)  # a and b are predicted again in the second half
    assert seen[texts[3]].best == [A, A]
    assert seen[texts[3]].greedy == 0
    first = -sum(p * math.log(p) for p in (0.45, 0.35, 0.2))
    assert seen[texts[1]].entropy == pytest.approx([first])
    assert abab.feature.tolist() == [0, 0, 1, 0]
    assert abab.cosine == 0


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_a_batch_gives_the_logits_of_a_single_session(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, texts = model(arch), drawn(16)
    alone = {text: score_answers(scorer, [text])[text] for text in texts}
    for size in (likelihood.BYTES, 4 * VOCAB * 150, 1):
        monkeypatch.setattr(likelihood, "BYTES", size)
        for text, seen in score_answers(scorer, texts * 2).items():
            assert seen.surprisal == pytest.approx(alone[text].surprisal, abs=1e-4)
            assert seen.entropy == pytest.approx(alone[text].entropy, abs=1e-4)
            assert torch.allclose(seen.feature, alone[text].feature, atol=1e-4)
    for text in texts[:4]:
        session = Session(scorer.engine, remember=(HIDDEN,))
        for place, token in enumerate(text[1]):
            session.follow([*text[0], *text[1][:place]])
            logp = session.read().logits[0].log_softmax(-1)
            assert -alone[text].surprisal[place] == pytest.approx(float(logp[token]), abs=1e-4)
            assert alone[text].best[place] == int(logp.argmax())
        session.close()


def test_an_empty_answer_has_no_numbers() -> None:
    seen = score_answers(model(), [((5, 6), ())])[(5, 6), ()]
    assert (seen.logp, seen.greedy, seen.uneven, seen.uncertainty, seen.rep, seen.cosine) == (0, *[None] * 5)
    assert seen.feature.shape == (64,)


def test_the_variance_of_the_surprisal() -> None:
    seen = score_answers(model(), [((5,), (6, 7, 8))])[(5,), (6, 7, 8)]
    object.__setattr__(seen, "surprisal", [1.0, 2.0, 4.0])
    assert seen.uneven == pytest.approx(1.5556, abs=5e-5)


def test_repetition_of_the_likeliest_token() -> None:
    prompt, answer, best = [1, 2], [3, 1, 3, 4], [2, 3, 1, 4]
    assert token_rep(prompt, answer, best, 2) == pytest.approx(3 / 4)  # 2 in (1 2), 3 in (2 3), 1 in (3 1), 4 is new
    assert token_rep(prompt, answer, best, 1) == pytest.approx(3 / 4)
    assert token_rep(prompt, answer, [1, 2, 2, 1], 1) == 0
    assert token_rep(prompt, answer, [3, 1, 3, 3], 8, wrong=True) == pytest.approx(1 / 4)


def test_texts_are_cut_to_what_the_model_reads() -> None:
    short = cast(Any, SimpleNamespace(engine=SimpleNamespace(max_len=5)))
    assert fitted(short, [1, 2, 3], [4, 5]) == ((1, 2, 3), (4, 5))
    assert fitted(short, [1, 2, 3], [4, 5, 6]) == ((2, 3), (4, 5, 6))
    assert fitted(short, [1, 2, 3], [4, 5, 6, 7, 8, 9]) == ((3,), (4, 5, 6, 7))


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_slices_of_the_logits_give_the_same_bits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, hidden = torch.randn(40, VOCAB, generator=generator), torch.randn(45, 8, generator=generator)
    text = tuple(range(5)), tuple(range(40))
    monkeypatch.setattr(likelihood, "SLICE", 4 * VOCAB * rows)
    scores, logp = likelihood._scores(text, logits.clone(), hidden), logits.log_softmax(-1)
    assert scores.surprisal == (-logp[range(40), range(40)]).tolist()
    assert scores.entropy == torch.special.entr(logp.exp()).sum(-1).tolist()
    assert scores.best == logits.argmax(-1).tolist()


def test_no_large_copy_of_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor that is computed from bfloat16 logits has at most as many bytes as a slice."""
    sizes, vocab = list[int](), 1000

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out._base is None:
                sizes.append(out.numel() * out.element_size())
            return out

    monkeypatch.setattr(likelihood, "SLICE", 4 * vocab * 8)
    logits, hidden = torch.zeros(200, vocab, dtype=torch.bfloat16), torch.zeros(201, 4)
    with Sizes():
        likelihood._scores(((1,), tuple(range(200))), logits, hidden)
    assert max(sizes) == 4 * vocab * 8
