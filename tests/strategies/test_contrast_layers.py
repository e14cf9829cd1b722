"""Contrasts within one model: earlier layers (DoLa, DeCo) and masked heads (DeCoRe), each step from scratch."""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import inf, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from harness.engine.attention_hooks import MaskedHeads
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.kept_prefix import pin
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Strategy
from strategies.deco import Deco
from strategies.decore import Decore, entropy, ranked
from strategies.dola import Dola, divergence
from strategies.greedy import Greedy
from strategies.tools import retrieval_heads
from strategies.tools.retrieval_heads import Hidden, haystacks, retrieved, scored
from strategies.top_k import TopK
from strategies.top_p import TopP
from tests.decode import decode, engine, traced
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled

FOUR = ("llama", "qwen2", "gpt2", "opt")
LAYERS = 4
GOLD = torch.tensor([3.0, 1.0, 0.0, -2.0]), torch.tensor([1.0, 2.5, 0.0, -2.0])


@cache
def target(arch: str, layers: int = LAYERS) -> Engine:
    return engine(tiny_model(arch, layers=layers))


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return scores for the models here: three heads retrieve, the others do not."""
    scores = {f"{layer}-{head}": [0.0, 0.0] for layer in range(LAYERS) for head in range(4)}
    scores |= {"1-2": [0.5, 0.3], "0-3": [0.2], "3-0": [0.4, 0.2]}  # type: ignore[dict-item]
    path = tmp_path_factory.mktemp("heads") / "heads.json"
    path.write_text(json.dumps(scores))
    return str(path)


@torch.inference_mode()
def states(engine: Engine, text: Sequence[int], norm: bool) -> list[Tensor]:
    """Return logits (V,) of the embeddings, of each layer's output, and of the last one."""
    out = engine.model(torch.tensor([list(text)]), output_hidden_states=True)
    early = [state[0, -1] for state in out.hidden_states[:-1]]
    return [*(engine.parts.head(engine.parts.norm(h) if norm else h) for h in early), out.logits[0, -1]]


def by_hand(scores: Callable[[list[int]], Tensor], prompt: Sequence[int], new: int) -> list[int]:
    text = list(prompt)
    while len(text) < len(prompt) + new and text[-1] != EOS:
        text.append(int(scores(text).argmax()))
    return text[len(prompt):]


def test_the_numbers_of_the_sheet() -> None:
    final, early = GOLD
    scores = Dola().scores(final, early[None])
    assert scores.tolist() == pytest.approx([1.5993, -1.9007, -inf, -inf], abs=1e-4)
    last, layers = torch.tensor([2.0, 1.8, 0.0, -1.0]), torch.tensor([[0.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert Deco(k=3).scores(last, layers).tolist() == pytest.approx([2.0, 3.3661, -inf, -inf], abs=1e-4)
    assert [Deco().layers(32), Deco().layers(2), Deco().layers(10)] == [range(20, 29), range(1, 2), range(6, 9)]
    flat = torch.zeros(8)
    assert entropy(flat.log_softmax(-1)) == pytest.approx(log(8))
    sharp = torch.tensor([9.0, 0, 0, 0, 0, 0, 0, 0])
    assert torch.allclose(Decore().contrasted(flat, sharp), (1 + log(8)) * flat.log_softmax(-1)
                          - log(8) * sharp.log_softmax(-1), atol=1e-5)
    for method, weight in ((Decore(cap=0.5), 0.5), (Decore(relative=True), 1.0), (Decore(weight="constant"), 0.5),
                           (Decore(weight="gain"), entropy(sharp.log_softmax(-1)) - log(8))):
        expected = (1 + weight) * flat.log_softmax(-1) - weight * sharp.log_softmax(-1)
        assert torch.allclose(method.contrasted(flat, sharp), expected, atol=1e-5)


def test_the_divergences() -> None:
    """The correct one is symmetric, at most ln 2, and often chooses another layer than that with swapped arguments."""
    generator, other = torch.Generator().manual_seed(1), 0
    for _ in range(400):
        p, q, r = (3 * torch.randn(3, 5, generator=generator)).log_softmax(-1)
        mean = (p.exp() + q.exp()) / 2
        kl = [torch.nn.functional.kl_div(each, mean, reduction="none").mean() for each in (p, q)]
        assert float(divergence(p, q, "official")) == pytest.approx(float(sum(kl) / 2), abs=1e-6)
        real = [float(divergence(p, each, "paper")) for each in (q, r)]
        assert 0 <= real[0] <= log(2)
        assert real[0] == pytest.approx(float(divergence(q, p, "paper")), abs=1e-6)
        swapped = [float(divergence(p, each, "official")) for each in (q, r)]
        other += (real[0] < real[1]) != (swapped[0] < swapped[1])
    assert 0.05 < other / 400 < 0.2


@pytest.mark.parametrize("arch", FOUR)
def test_greedy_where_there_is_nothing_to_contrast(arch: str, heads: str) -> None:
    same = [Dola(alpha=1.0), Dola(layers=str(LAYERS)), Dola(layers=str(LAYERS), norm=True), Deco(alpha=0.0), Deco(k=1),
            Deco(tau=0.0), Decore(heads=0), Decore(weight="constant", alpha=0.0, scores=heads),
            Decore(cap=0.0, scores=heads)]
    for prompt in prompts(2, 97, 6):
        expected = decode(Greedy(), target(arch), prompt, new=15)
        for method in same:
            assert decode(method, target(arch), prompt, new=15) == expected, method.spec()


def test_a_draw_without_the_earlier_layer_is_one_from_the_candidates() -> None:
    for sample in range(scaled(3, 5)):
        for method, same in ((Deco(alpha=0.0, k=97, tau=0.8, temperature=1.0), TopP(p=0.8)),
                             (Deco(alpha=0.0, k=3, tau=1.0, temperature=1.0), TopK(k=3))):
            found = decode(method, target("llama"), [3, 4], sample=sample)
            assert found == decode(same, target("llama"), [3, 4], sample=sample)


def test_a_sure_model_is_not_turned() -> None:
    """If the entropy of p is zero there is no contrast, for any logits of the masked heads."""
    sure, other = torch.full((8,), -40.0), torch.linspace(5, -5, 8)
    sure[3] = 40.0
    assert torch.allclose(Decore().contrasted(sure, other), sure.log_softmax(-1), atol=1e-4)
    assert int(Decore().contrasted(sure, other).argmax()) == 3
    assert int(Decore(weight="constant", alpha=9.0).contrasted(sure * 0.1, other * 5).argmax()) != 3


@pytest.mark.parametrize(("count", "tied", "low", "high"), [
    (32, False, range(0, 16, 2), range(16, 32, 2)), (32, True, range(2, 16, 2), range(16, 32, 2)),
    (40, False, range(0, 20, 2), range(20, 40, 2)), (48, False, range(0, 20, 2), range(28, 48, 2)),
    (80, True, range(2, 20, 2), range(60, 80, 2)), (2, True, [1], [1])])
def test_the_layers_of_dola(count: int, tied: bool, low: Sequence[int], high: Sequence[int]) -> None:
    """Specs/quality 5.5: those of transformers."""
    weight = object()
    parts: Any = SimpleNamespace(layers=[None] * count, embedding=SimpleNamespace(weight=weight),
                                 head=SimpleNamespace(weight=weight if tied else object()))
    assert (Dola().bucket(parts), Dola(layers="high").bucket(parts)) == ([*low], [*high])


def test_what_a_token_costs(heads: str) -> None:
    """One forward, for masked heads another one, which starts at the last token of the prompt."""
    prompt = prompts(1, 97, 6)[0]
    for method, forwards, positions in ((Dola(), 10, len(prompt) + 9), (Deco(), 10, len(prompt) + 9),
                                        (Decore(scores=heads), 20, len(prompt) + 19),
                                        (Decore(scores=heads, mask_prefill=True), 20, 2 * len(prompt) + 18)):
        work = traced(method, target("llama"), prompt, new=10, eos=None)[1]
        assert (work.forwards, work.positions) == (forwards, positions), method.spec()


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_dola_again_from_scratch(variant: str) -> None:
    changed = 0
    for i, prompt in enumerate(prompts(scaled(16, 48), 97, 20)):
        arch, norm = FOUR[i % 4], bool(i // 4 % 2)

        def scores(text: list[int]) -> Tensor:
            *early, last = states(target(arch), text, norm)  # noqa: B023
            p = last.log_softmax(-1)
            q = max((early[layer].log_softmax(-1) for layer in (0, 1, 3)),
                    key=lambda q: float(divergence(p, q, variant)))
            return (p - q).masked_fill(p < p.max() + log(0.1), -inf)
        method = Dola(layers="0-1-3", norm=norm, variant=variant)
        expected = by_hand(scores, prompt, 3)
        assert decode(method, target(arch), prompt, new=3) == expected
        changed += decode(Greedy(), target(arch), prompt, new=3) != expected
    assert changed > scaled(4, 14)


def test_deco_again_from_scratch() -> None:
    changed = 0
    for i, prompt in enumerate(prompts(scaled(36, 96), 97, 21)):
        arch, k = FOUR[i % 4], (2, 5, 20)[i % 3]

        def scores(text: list[int]) -> Tensor:
            *early, last = states(target(arch), text, True)  # noqa: B023
            chances, tokens = last.softmax(-1).topk(k)  # noqa: B023
            kept = [t for i, t in enumerate(tokens.tolist()) if float(chances[:i].sum()) < 0.9]
            sure, layer = max((float(early[j].softmax(-1)[t]), j) for j in (2, 3) for t in kept)
            out = torch.full_like(last, -inf)
            out[kept] = (last + 0.8 * sure * early[layer])[kept]
            return out
        expected = by_hand(scores, prompt, 2)
        assert decode(Deco(alpha=0.8, k=k), target(arch), prompt, new=2) == expected
        changed += decode(Greedy(), target(arch), prompt, new=2) != expected
    assert changed > scaled(0, 2)


@torch.inference_mode()
def masked_logits(engine: Engine, plan: MaskedHeads, text: list[int], plain: int) -> Tensor:
    """Return logits (V,) after a sequence whose first `plain` tokens use all heads, and the rest not all."""
    mask = torch.full((1, 1, len(text), len(text)), torch.finfo(torch.float32).min).triu(1)
    places, cache = torch.arange(len(text))[None], DynamicCache()

    def read(start: int, end: int) -> Tensor:
        said: Tensor = engine.model(torch.tensor([text[start:end]]), attention_mask=mask[:, :, start:end, :end],
                                    position_ids=places[:, start:end], past_key_values=cache, use_cache=True).logits
        return said[0, -1]
    if plain:
        read(0, plain)
    with plan.applied_to(engine.parts):
        return read(plain, len(text))


@pytest.mark.parametrize("mode", ["uniform", "zero"])
def test_decore_again_from_scratch(mode: str, heads: str) -> None:
    plan, changed = MaskedHeads(frozenset({(1, 2), (3, 0)}), mode), 0  # type: ignore[arg-type]
    for i, prompt in enumerate(prompts(scaled(16, 48), 97, 22)):
        arch, whole = FOUR[i % 4], bool(i // 4 % 2)

        def scores(text: list[int]) -> Tensor:
            p = states(target(arch), text, False)[-1].log_softmax(-1)  # noqa: B023
            q = masked_logits(target(arch), plan, text, 0 if whole else len(prompt) - 1).log_softmax(-1)  # noqa: B023
            weight = min(2.0, float(-(p.exp() * p).sum()))
            return (1 + weight) * p - weight * q
        method = Decore(heads=2, scores=heads, cap=2.0, mask=mode, mask_prefill=whole)
        expected = by_hand(scores, prompt, 3)
        assert decode(method, target(arch), prompt, new=3) == expected
        changed += decode(Greedy(), target(arch), prompt, new=3) != expected
    assert changed > scaled(0, 4)


METHODS: list[Strategy] = [Dola(), Dola(layers="high", variant="paper", temperature=1.0), Deco(), Decore(cap=1.0),
                           Decore(cap=1.0, mask_prefill=True, mask="zero")]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.spec())
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_side_by_side_is_alone(method: Strategy, heads: str) -> None:
    """Each text chooses its own layers and weights."""
    if isinstance(method, Decore):
        method = Decore(cap=1.0, mask=method.mask, mask_prefill=method.mask_prefill, scores=heads)
    many = [[5, 6, 7, *prompt] for prompt in prompts(scaled(5, 7), 97, 9)]
    jobs = [partial(decode, method, target("llama"), prompt, new=8) for prompt in many]
    alone = [job() for job in jobs]
    for most in (3, 16):
        assert run_batched([target("llama")], jobs, most) == alone
    pin(target("llama"), [5, 6, 7])
    assert [job() for job in jobs] == alone  # a start that many texts share is read with all its heads
    target("llama").unpin()
    assert target("llama").open_rows == 0


PERIOD, VOCAB, PLACES = 6, 20, 64


@cache
def copier() -> Engine:
    """A model of one layer and one head that copies the token `PERIOD` − 1 positions back."""
    size = 2 * VOCAB + PLACES
    config = GPT2Config(vocab_size=VOCAB, n_embd=size, n_layer=1, n_head=1, n_positions=PLACES, n_inner=1,
                        tie_word_embeddings=False, attn_implementation="eager", bos_token_id=1, eos_token_id=EOS)
    model = GPT2LMHeadModel(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(float(".ln_" in f".{name}" and name.endswith("weight")))
        model.transformer.wte.weight[:, :VOCAB] = torch.eye(VOCAB)
        places = torch.eye(PLACES)
        model.transformer.wpe.weight[:, VOCAB:VOCAB + PLACES] = places
        attention = model.transformer.h[0].attn
        attention.c_attn.weight[VOCAB:VOCAB + PLACES, :PLACES] = 20 * places.roll(-(PERIOD - 1), 1)
        attention.c_attn.weight[VOCAB:VOCAB + PLACES, size:size + PLACES] = places
        attention.c_attn.weight[:VOCAB, 2 * size:2 * size + VOCAB] = torch.eye(VOCAB)
        attention.c_proj.weight[:VOCAB, -VOCAB:] = 5 * torch.eye(VOCAB)
        model.lm_head.weight[:, -VOCAB:] = 3 * torch.eye(VOCAB)
    return Engine(model, PLACES)


TEXT = [5, 9, 5, 5, 13, 7, 16, 4]


@torch.inference_mode()
def test_masking_the_head_that_copies_ends_the_copying(tmp_path: Path) -> None:
    copied = [*TEXT[-PERIOD:]] * 3
    assert decode(Greedy(), copier(), TEXT, new=15) == copied[:15]
    for mode in ("uniform", "zero"):
        quiet = masked_logits(copier(), MaskedHeads(frozenset({(0, 0)}), mode), TEXT, 0)  # type: ignore[arg-type]
        assert int(quiet.argmax()) == (5 if mode == "uniform" else 0)  # the commonest token; nothing at all
    path = tmp_path / "heads.json"
    path.write_text(json.dumps({"scores": {"0-0": 0.9}}))
    assert decode(Decore(scores=str(path)), copier(), TEXT, new=15) == copied[:15]
    flat = tmp_path / "none.json"
    flat.write_text(json.dumps({"scores": {"0-0": 0.0}}))
    session = Session(copier())
    assert Decore(scores=str(flat)).chosen(copier().parts) == []
    session.close()


@torch.inference_mode()
def test_the_head_that_copies_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval_heads, "MAX_NEW", 6)
    answer, scores = scored(copier(), Hidden(TEXT, range(3, 6)), frozenset())
    assert answer == TEXT[-PERIOD:]
    assert scores == {(0, 0): pytest.approx(1.0)}  # all three tokens of the needle, once each
    assert scored(copier(), Hidden(TEXT, range(0)), frozenset())[1] == {(0, 0): 0.0}
    assert len(scored(copier(), Hidden(TEXT, range(3, 6)), frozenset({5}))[0]) == 1


def test_haystacks() -> None:
    made = list(haystacks(lambda text: [*text.encode()], [300, 900], 3, 2))
    assert len(made) == 2 * 3 * 2
    for i, prompt in enumerate(made):
        text, needle = bytes(prompt.tokens).decode(), bytes(prompt.tokens[prompt.needle.start:prompt.needle.stop])
        assert text.count(needle.decode().strip()) == 1
        subject = text.rpartition("\n")[2]
        assert subject.startswith("Summary of ")
        name, hay = subject.split()[-1].rstrip(":").lower(), text.rpartition("\n")[0].replace(needle.decode(), "")
        assert name in needle.decode().lower()
        assert name not in hay.lower()
        assert (prompt.needle.start < 10) == (i % 3 == 0)
        assert (300, 900)[i // 3 % 2] < len(prompt.tokens) < (300, 900)[i // 3 % 2] + 300
    assert retrieved("the Bear is nine", "The bear is ten")
    assert not retrieved("bear bear bear", "The bear is ten")


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="low, high or numbers"):
        Dola(layers="0-x")
    with pytest.raises(Unsupported, match="no layer 9"):
        decode(Dola(layers="1-9"), target("llama"), [3, 4])
    with pytest.raises(UserError, match="must not be above"):
        Deco(first=0.9, last=0.2)
    with pytest.raises(Unsupported, match="retrieval_heads"):
        decode(Decore(), target("llama"), [3, 4])
    for text in ("[1]", "{}", '{"1": 2}', '{"1-2": "x"}', "no"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(UserError, match="not a JSON file of retrieval scores"):
            Decore(scores=str(tmp_path / "bad.json"))
    assert retrieval_heads.main(["--depths", "0"]) == 2
    assert "--depths must be from 1 to 100" in capsys.readouterr().err


def test_heads_are_ranked_by_their_mean(heads: str) -> None:
    assert list(ranked(Path(heads)))[:4] == [(1, 2), (3, 0), (0, 3), (0, 0)]
    assert Decore(scores=heads, heads=2).chosen(target("llama").parts) == [(1, 2), (3, 0)]
    assert len(Decore(scores=heads).chosen(target("llama").parts)) == 3
