"""kNN-LM against explicit mixtures, its identities, its sampling distribution, and batches."""

import random
from collections.abc import Sequence
from functools import cache, partial
from math import exp, inf, log
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from strategies.knn_lm import KnnLm
from strategies.parts.keys import NAME, WATCH
from strategies.parts.neighbours import Datastore
from strategies.tools import perplexity
from strategies.tools.knn_datastore import made, named
from strategies.top_p import TopP
from tests.decode import decode, engine
from tests.models import prompts, tiny_model
from tests.scale import scaled

TINY = ("llama", "qwen2", "gpt2", "opt")
KEPT = [text * 3 for text in prompts(20, 97, 7)]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {}
    for arch in TINY:
        folder = tmp_path_factory.mktemp("store") / arch
        made(target(arch), KEPT, folder)
        found[arch] = str(folder)
    return found


@torch.inference_mode()
def plain(arch: str, text: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the logits after a sequence and the input of the last MLP (T, D), by plain hooks on the model."""
    model = target(arch).model
    module = {"gpt2": lambda: model.transformer.h[-1].mlp, "opt": lambda: model.model.decoder.layers[-1].fc1}.get(
        arch, lambda: model.model.layers[-1].mlp)()
    seen = list[Tensor]()
    hook = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    logits = model(torch.tensor([list(text)])).logits[0, -1].double()
    hook.remove()
    return logits, seen[0].reshape(len(text), -1).double()


@cache
def memory(arch: str) -> tuple[Tensor, list[int]]:
    keys = [plain(arch, text)[1][:-1] for text in KEPT]
    return torch.cat(keys), [token for text in KEPT for token in text[1:]]


def explicit(arch: str, text: Sequence[int], k: int, lam: float, spread: float) -> Tensor:
    """Compute the mixture (V,) in float64, by adding up the votes one by one."""
    logits, states = plain(arch, text)
    keys, values = memory(arch)
    distances = (keys - states[-1]).square().sum(-1)
    nearest = distances.argsort(stable=True)[:k].tolist()
    votes, least = torch.zeros_like(logits), float(distances.min())
    for i in nearest:
        votes[values[i]] += exp(-(float(distances[i]) - least) / spread)
    return lam * votes / votes.sum() + (1 - lam) * logits.softmax(-1)


def read(arch: str, text: Sequence[int]) -> Session:
    session = Session(target(arch))
    session.follow(text)
    return session


@torch.inference_mode()
def mixed(method: KnnLm, arch: str, text: Sequence[int]) -> Tensor:
    session = read(arch, text)
    law = method.mixed(session.read(hook=WATCH), named(method.store, "knn_lm", target(arch)))[0]
    session.close()
    return law


@pytest.mark.parametrize("arch", TINY)
def test_without_weight_it_is_the_model(folders: dict[str, str], arch: str) -> None:
    for prompt in prompts(4, 97, 1):
        assert decode(KnnLm(lam=0, store=folders[arch]), target(arch), prompt, new=40) == \
            decode(Greedy(), target(arch), prompt, new=40)
        drawn = decode(KnnLm(lam=0, store=folders[arch], temperature=0.8, p=0.9), target(arch), prompt, new=40)
        assert drawn == decode(TopP(p=0.9, temperature=0.8), target(arch), prompt, new=40)


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize(("k", "lam", "spread"), [(8, 0.4, 20.0), (65_536, 0.8, 30.0), (1, 0.3, 1.0), (5, 1.0, 9.0)])
def test_the_mixture_is_the_explicit_one(folders: dict[str, str], arch: str, k: int, lam: float, spread: float
                                         ) -> None:
    """With k above the size of the store it is a softmax over all of it."""
    method = KnnLm(k=k, lam=lam, spread=spread, store=folders[arch])
    for prompt in [*prompts(3, 97, 2), KEPT[0][:9]]:
        law = mixed(method, arch, prompt).double().exp()
        assert abs(float(law.sum()) - 1) < 1e-5
        assert torch.allclose(law, explicit(arch, prompt, k, lam, spread), atol=2e-5)


@pytest.mark.parametrize("arch", TINY)
def test_whole_texts_are_those_of_the_explicit_mixture(folders: dict[str, str], arch: str) -> None:
    method, changed = KnnLm(k=16, lam=0.5, spread=25, store=folders[arch]), 0
    for prompt in prompts(3, 97, 4):
        written = list[int]()
        while len(written) < 15 and 2 not in written:
            written.append(int(explicit(arch, [*prompt, *written], 16, 0.5, 25).argmax()))
        assert decode(method, target(arch), prompt, new=15) == written
        changed += written != decode(Greedy(), target(arch), prompt, new=15)
    assert changed


@pytest.mark.parametrize("spread", [0.001, 1.0, 1000.0])
def test_one_neighbour_alone_says_what_followed_it(folders: dict[str, str], spread: float) -> None:
    method = KnnLm(k=1, lam=1, spread=spread, store=folders["llama"])
    keys, values = memory("llama")
    for prompt in prompts(4, 97, 5):
        nearest = int((keys - plain("llama", prompt)[1][-1]).square().sum(-1).argmin())
        law = mixed(method, "llama", prompt)
        assert int(law.argmax()) == values[nearest]
        assert float(law.max()) == 0
        assert law.isinf().sum() == 96
        assert decode(method, target(), prompt, new=1) == [values[nearest]]


@pytest.mark.parametrize("arch", TINY)
@torch.inference_mode()
def test_a_text_of_the_store_finds_itself(folders: dict[str, str], arch: str) -> None:
    method = KnnLm(k=1, lam=1, store=folders[arch])
    known = named(folders[arch], "knn_lm", target(arch))
    for text in KEPT[:4]:
        assert decode(method, target(arch), text[:3], new=len(text) - 3) == text[3:]
        session = read(arch, text[:5])
        query = session.read(hook=WATCH).captured(NAME).numpy()
        session.close()
        distances, values = known.nearest(query, 2)
        assert distances[0, 0] < 1e-6 * float(np.square(query).sum())
        assert distances[0, 1] > 1e-4 * float(np.square(query).sum())
        assert values[0, 0] == text[5]


class Empty(Datastore):
    """A datastore without any neighbour, like an index with empty cells."""

    def nearest(self, queries, k, probes=32, exact=True):  # type: ignore[no-untyped-def]
        return np.full((len(queries), k), np.inf, np.float32), np.zeros((len(queries), k), np.int32)


@pytest.mark.parametrize("lam", [0.25, 1.0])
@torch.inference_mode()
def test_without_neighbours_the_model_decides(folders: dict[str, str], lam: float) -> None:
    known = named(folders["llama"], "knn_lm", target())
    session = read("llama", prompts(1, 97, 6)[0])
    reading = session.read(hook=WATCH)
    law = KnnLm(lam=lam).mixed(reading, Empty(known.keys, known.values, 97, known.start, known.index))
    assert torch.allclose(law, reading.logits.log_softmax(-1), atol=1e-5)
    session.close()


@pytest.mark.parametrize("lam", [0.25, 1.0])
@torch.inference_mode()
def test_what_is_ruled_out_stays_so(folders: dict[str, str], lam: float) -> None:
    text, method = KEPT[1], KnnLm(k=64, lam=lam, spread=50, store=folders["llama"])
    session = read("llama", text[:6])
    with session.with_logit_warp(lambda logits, texts: logits.index_fill(-1, torch.tensor([text[6]]), -inf)):
        law = method.mixed(session.read(hook=WATCH), named(method.store, "knn_lm", target()))[0].exp()
        assert law[text[6]] == 0
        assert abs(float(law.sum()) - 1) < 1e-5
    session.close()


def test_samples_follow_the_distribution(folders: dict[str, str]) -> None:
    """Temperature, then nucleus, after the mixture."""
    method = KnnLm(k=32, lam=0.5, spread=40, store=folders["gpt2"], temperature=0.7, p=0.9)
    prompt, draws = prompts(1, 97, 8)[0], scaled(300, 1000)
    law = explicit("gpt2", prompt, 32, 0.5, 40) ** (1 / 0.7)
    law /= law.sum()
    values, order = law.sort(descending=True, stable=True)
    kept = order[values.cumsum(-1) - values < 0.9]
    law = law[kept] / law[kept].sum()
    said = [decode(method, target("gpt2"), prompt, new=1, stream=PhiloxStream(i))[0] for i in range(draws)]
    assert set(said) <= set(kept.tolist())
    counts, shares = [said.count(token) for token in kept.tolist()], (law * draws).tolist()
    common = [i for i, share in enumerate(shares) if share >= 5]
    seen, due = [counts[i] for i in common], [shares[i] for i in common]
    assert len(common) > 2
    assert chisquare([*seen, draws - sum(seen) + 1e-9], [*due, draws - sum(due) + 1e-9]).pvalue > 1e-3


@pytest.mark.parametrize("most", [3, 16])
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(folders: dict[str, str], most: int) -> None:
    for method in (KnnLm(k=16, lam=0.5, spread=25, store=folders["llama"]),
                   KnnLm(k=16, lam=0.5, spread=25, store=folders["llama"], temperature=1, p=0.9)):
        jobs = [partial(decode, method, target(), prompt, new=20) for prompt in prompts(scaled(5, 7), 97, 9)]
        assert run_batched([target()], jobs, most) == [job() for job in jobs]


@torch.inference_mode()
def test_a_text_that_was_read_before_is_read_on(folders: dict[str, str]) -> None:
    """By another method, without being watched, in this session or in the one that it is a copy of."""
    prompt = prompts(1, 97, 10)[0]
    method = KnnLm(k=16, lam=0.5, spread=25, store=folders["opt"])
    expected = decode(method, target("opt"), prompt, new=8, eos=None)
    session = read("opt", prompt)
    session.read(TokenTree.chain([5, 6]))
    for each in (session.fork(), session):
        steps = method.generate(each, Request(tuple(prompt), 8, PhiloxStream(0)))
        assert [next(steps)[0] for _ in range(8)] == expected
    session.close()


@torch.inference_mode()
def test_one_forward_a_token(folders: dict[str, str]) -> None:
    prompt = prompts(1, 97, 10)[0]
    session = Session(target())
    steps = KnnLm(store=folders["llama"]).generate(session, Request(tuple(prompt), 8, PhiloxStream(0)))
    for _ in range(8):
        next(steps)
    assert (session.work.forwards, session.work.positions) == (8, len(prompt) + 7)
    session.close()


def spoken(count: int, seed: int) -> list[list[int]]:
    """Return sequences in which a token is followed by one of two, which the model does not predict."""
    rng, texts = random.Random(seed), []
    for _ in range(count):
        text = [rng.randrange(3, 97)]
        while len(text) < 40:
            text.append(3 + (text[-1] * 5 + rng.choice((1, 1, 1, 20))) % 94)
        texts.append(text)
    return texts


def test_perplexity_falls_on_texts_like_those_of_the_store(tmp_path: Path) -> None:
    made(target(), spoken(60, 1), tmp_path)
    scores = [perplexity.score(KnnLm(spread=20, store=str(tmp_path)), target(), text) for text in spoken(10, 2)]
    own, both = (float(torch.cat(part).mean()) for part in ([s.own for s in scores], [s.mixed for s in scores]))
    assert both < own - log(2)
    for one, text in zip(scores[:2], spoken(10, 2), strict=False):
        for end in (1, 20, 39):
            logits = plain("llama", text[:end])[0].log_softmax(-1)
            assert abs(float(one.own[end - 1]) + float(logits[text[end]])) < 1e-4
        assert (one.entropy >= 0).all()
        assert (one.entropy <= log(97)).all()
    sure = perplexity.score(KnnLm(k=1, store=str(tmp_path)), target(), spoken(1, 3)[0])
    assert sure.entropy.abs().max() < 1e-6


def test_the_command_refuses_other_strategies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["perplexity", "--strategy", "greedy"])
    with pytest.raises(UserError, match="--strategy must be knn_lm with its knobs, not 'greedy'"):
        perplexity.main()
