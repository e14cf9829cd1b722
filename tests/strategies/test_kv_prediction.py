"""Prompts that a small model reads: maps that change nothing, fitted ones against ridge regression, and what is spared.
"""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from sklearn.linear_model import Ridge

from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies.kv_prediction import KvPrediction
from strategies.parts import kv_map
from strategies.parts.kv_map import KvMap, fitted, read, unrotated
from strategies.tools import kv_prediction as tool
from tests.decode import decode, engine, traced
from tests.models import prompts, tiny_model

TEXTS = [[token for prompt in prompts(8, 97, seed) for token in prompt] for seed in range(30, 36)]
PROMPTS = [prompt * 2 for prompt in prompts(3, 97, 1)]


@cache
def model(arch: str = "llama", layers: int = 2, seed: int = 0) -> Engine:
    return engine(tiny_model(arch, layers=layers, seed=seed))


def unchanged(target: Engine, inputs: str) -> KvMap:
    """The maps that change nothing, when the target drafts for itself."""
    layers, size = 2, 32
    maps = torch.zeros(layers, 2, 1 + size * (1 if inputs == "own" else 2 * layers), size)
    for layer in range(layers):
        for kind in (0, 1):
            first = 0 if inputs == "own" else size * (2 * layer + kind)
            maps[layer, kind, first:first + size] = torch.eye(size)
    return KvMap(maps)


@pytest.mark.parametrize("over", ["greedy", "temperature", "beam:width=3", "speculative:gamma=3", "best_of_n:n=2"])
@pytest.mark.parametrize(("arch", "inputs"), [("llama", "own"), ("llama", "all"), ("qwen2", "own"), ("qwen3", "own")])
def test_maps_that_change_nothing_give_the_other_strategy(arch: str, inputs: str, over: str, tmp_path: Path) -> None:
    target = model(arch)
    unchanged(target, inputs).save(tmp_path / "map", target, target)
    method, plain = STRATEGIES.build(f"{over}+kv_prediction:map={tmp_path / 'map'}"), STRATEGIES.build(over)
    for prompt in [*PROMPTS, [5]]:
        assert decode(method, target, prompt, draft=target) == decode(plain, target, prompt, draft=target)


def test_the_distribution_after_maps_that_change_nothing_and_after_fitted_ones() -> None:
    target, small = model(), model(layers=1, seed=3)
    exact, rough = unchanged(target, "own"), fitted(target, small, TEXTS)
    assert tool.compared(exact, target, target, PROMPTS)[0].divergence == pytest.approx(0, abs=1e-5)
    predicted, alone = tool.compared(rough, target, small, PROMPTS)
    nothing = tool.compared(KvMap(torch.zeros_like(rough.maps)), target, small, PROMPTS)[0]
    assert 0.01 < predicted.divergence < min(nothing.divergence, alone.divergence)


@pytest.mark.parametrize("inputs", ["own", "all"])
def test_maps_are_those_of_ridge_regression(inputs: str) -> None:
    target, small, ridge = model(layers=3), model(layers=2, seed=3), 0.05
    maps = fitted(target, small, [*TEXTS, [5]], inputs, ridge).maps
    with torch.inference_mode():
        seen, wanted = ([unrotated(each, read(each, text)) for text in TEXTS] for each in (small, target))
    for layer, source in enumerate((0, 0, 1)):
        for kind in (0, 1):
            parts = [(source, kind)] if inputs == "own" else [(i, j) for i in range(2) for j in range(2)]
            x = torch.cat([torch.cat([states[i][j] for i, j in parts], 1) for states in seen]).double().numpy()
            y = torch.cat([states[layer][kind] for states in wanted]).double().numpy()
            known = Ridge(alpha=ridge * len(x) * float(x.var(0).mean())).fit(x, y)
            assert torch.allclose(maps[layer, kind, :-1].double(), torch.from_numpy(known.coef_.T), atol=1e-5)
            assert torch.allclose(maps[layer, kind, -1].double(), torch.from_numpy(known.intercept_), atol=1e-5)


def test_the_target_reads_only_the_last_token_of_the_prompt(tmp_path: Path) -> None:
    target, small, prompt = model(), model(layers=1, seed=3), PROMPTS[0]
    fitted(target, small, TEXTS).save(tmp_path / "map", target, small)
    method = STRATEGIES.build(f"greedy+kv_prediction:map={tmp_path / 'map'}")
    tokens, work, drafted = traced(method, target, prompt, draft=small, new=4, eos=None)
    assert tokens != decode(STRATEGIES.build("greedy"), target, prompt, new=4, eos=None)
    read, counts = len(prompt) - 1, work.compute.numbers()
    assert (work.forwards, work.positions, drafted.positions) == (4, 4, read)
    assert (counts["fills"], counts["fills_read"], counts["mlp"]) == (2 * read, 2, 2 * 4)
    assert counts["keys"] == 2 * sum(range(read + 1, read + 5))


def test_an_answer_goes_on_as_it_began(tmp_path: Path) -> None:
    target, small, prompt = model(), model(layers=1, seed=3), PROMPTS[1]
    fitted(target, small, TEXTS).save(tmp_path / "map", target, small)
    method = STRATEGIES.build(f"greedy+kv_prediction:map={tmp_path / 'map'}")
    whole = decode(method, target, prompt, draft=small, new=12, eos=None)
    session, found = Session(target, Session(small)), list[int]()
    for step in method.generate(session, Request(tuple(prompt), 12, PhiloxStream(0)).behind(whole[:5])):
        found += step
        if len(found) == 7:
            break
    session.close()
    assert found == whole[5:]


def test_maps_fit_to_the_embedded_corpus_once_for_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    target, calls = engine(tiny_model("llama", layers=2)), list[Sequence[Sequence[int]]]()

    def counted(large: Engine, small: Engine, texts: Sequence[Sequence[int]], inputs: str) -> KvMap:
        calls.append(texts)
        return fitted(large, small, TEXTS, inputs)
    monkeypatch.setattr(kv_map, "fitted", counted)
    for spec in ("", "", ":inputs=all", ""):
        decode(STRATEGIES.build(f"kv_prediction{spec}"), target, PROMPTS[0], draft=model(layers=1), new=2)
    assert len(calls) == 2
    assert len(calls[0]) == 6 * kv_map.OF_A_KIND
    assert min(map(len, calls[0])) > 1


def test_what_cannot_be_predicted_is_refused(tmp_path: Path) -> None:
    target, small = model(), model(layers=1, seed=3)
    fitted(target, small, TEXTS).save(tmp_path / "map", target, small)
    method = STRATEGIES.build(f"kv_prediction:map={tmp_path / 'map'}")
    with pytest.raises(UserError, match="belongs to other models: make one with python -m"):
        decode(method, target, PROMPTS[0], draft=model(layers=1, seed=4))
    (tmp_path / "other").write_text("no map")
    for name in ("other", "missing"):
        with pytest.raises(UserError, match="holds no map: make one with python -m"):
            decode(STRATEGIES.build(f"kv_prediction:map={tmp_path / name}"), target, PROMPTS[0], draft=small)
    with pytest.raises(Unsupported, match="--draft"):
        decode(method, target, PROMPTS[0])
    with pytest.raises(Unsupported, match="rotary"):
        decode(KvPrediction(over=STRATEGIES.build("greedy")), model("gpt2"), PROMPTS[0], draft=small)
    last = f"kv_prediction:map={tmp_path / 'map'}"
    for spec, why in ((f"medusa+{last}", "cannot be combined"), (f"greedy+{last}+window", "cannot be combined"),
                      (f"greedy+h2o+{last}", "behind all other"), ("greedy+h2o+best_of_n:n=2", "behind all other")):
        with pytest.raises(Unsupported, match=why):
            decode(STRATEGIES.build(spec), target, PROMPTS[0], draft=small)


def test_the_command_fits_maps_and_tells_what_they_spare(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(6):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"Tom has {number} red apples. He gives two of them to Ann.")
    monkeypatch.setattr(sys, "argv", ["kv_prediction", "--texts", str(tmp_path / "texts"), "--out",
                                      str(tmp_path / "map")])
    tool.main()
    first, predicted, alone, operations = capsys.readouterr().out.splitlines()
    assert first == f"{tmp_path / 'map'}: 495,360 numbers fitted to 4 texts"  # 10 layers · 2 · 129 · 192
    assert predicted.startswith("predicted: KL of the first token ")
    assert alone.startswith("draft alone: KL")
    tokens = int(operations.split()[5])
    layers, head, small, maps = 10 * (147_456 + 294_912), 393_216, 2 * (65_536 + 132_096), 495_360
    whole, short = (2 * (count * layers + head + read) / 1e6
                    for count, read in ((tokens, 0), (1, (tokens - 1) * (small + maps))))
    assert operations.endswith(f"{whole:.0f} MFLOP by a prefill, {short:.0f} here")
    assert (tmp_path / "map").exists()
