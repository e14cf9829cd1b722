"""Early exits: identity, thresholds, the states and keys of exits, and what they cost."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from harness.engine.hooks import Watch, decoder_layers
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from strategies.early_exit import EarlyExit, Exit
from tests.self_drafting import PROMPTS, deep, greedy, nano, steps

TREE = TokenTree(tuple(range(10, 30)), (-1,) * 20)


def read(hook: Exit | Watch | None, names: Sequence[str] = (), arch: str = "llama", tree: TokenTree = TREE
         ) -> tuple[Tensor, list[Tensor]]:
    """The logits of tokens below a prompt that was computed in full, and what the hook recorded for them."""
    session = Session(deep(arch))
    session.follow(PROMPTS[0])
    session.read()
    found = session.read(tree, hook)
    recorded = [found._parts[-1].captured(name) for name in names]
    session.close()
    return found.logits[1:], recorded


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("strategy", [EarlyExit(lam=1.01), EarlyExit(lam=1.2, decay=4.0, probe="gap"),
                                      EarlyExit(lam=0.0, first=6), EarlyExit(lam=1.01, probe="state", keys="full")],
                         ids=lambda strategy: strategy.spec())
def test_tokens_are_those_of_greedy_without_an_exit(strategy: EarlyExit, arch: str) -> None:
    session, blocks = steps(strategy, PROMPTS[0], 20, deep(arch))
    assert [token for block in blocks for token in block] == greedy(PROMPTS[0], 20, deep(arch))
    found = session.work.compute.numbers()
    assert found["mlp"] == found["attention"] == 6 * session.work.positions
    assert found["keys"] == found["all_keys"]


@pytest.mark.parametrize("arch", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("fill", [True, False])
def test_an_exit_gives_the_prediction_of_its_layer(arch: str, fill: bool) -> None:
    """Of the first token whose keys are complete; the layer's state goes through the final norm."""
    _, (states,) = read(Watch(("hidden:2",)), ["hidden:2"], arch)
    parts = deep(arch).parts
    logits, (layer,) = read(Exit(0.0, "softmax", 2, 1, fill), ["exit"], arch)
    assert layer.unique().tolist() == [2]
    with torch.inference_mode():
        torch.testing.assert_close(logits, parts.head(parts.norm(states)).float())


def test_confidence_is_that_of_the_probe() -> None:
    """Golden: the first layer whose probability, lead or cosine is high enough, for each token."""
    names = [f"hidden:{layer}" for layer in range(7)]
    _, states = read(Watch(tuple(names)), names)
    parts = deep().parts
    with torch.inference_mode():
        best = [parts.head(parts.norm(each)).softmax(-1).topk(2).values for each in states]
    found = {"softmax": [each[:, 0] for each in best], "gap": [each[:, 0] - each[:, 1] for each in best],
             "state": [torch.zeros(20), *(torch.cosine_similarity(a, b, -1)
                                          for a, b in itertools.pairwise(states))]}
    for probe, confidences in found.items():
        lam = float(torch.stack(confidences[1:6]).median())
        _, (layers,) = read(Exit(lam, probe, 1, 1, True), ["exit"])
        wanted = [next((i for i in range(1, 6) if confidences[i][token] >= lam), 6) for token in range(20)]
        assert layers.view(-1).tolist() == wanted
        assert len(set(wanted)) > 1
        _, (layers,) = read(Exit(lam, probe, 2, 3, True), ["exit"])
        wanted = [next((i for i in (2, 5) if confidences[i][token] >= lam), 6) for token in range(20)]
        assert layers.view(-1).tolist() == wanted


def test_a_higher_threshold_exits_later() -> None:
    layers = [read(Exit(lam, "softmax", 1, 1, True), ["exit"])[1][0] for lam in (0.0, 0.1, 0.3, 0.6, 0.9, 1.1)]
    assert all(bool((low <= high).all()) for low, high in itertools.pairwise(layers))
    assert int(layers[0].max()) == 1
    assert int(layers[-1].min()) == 6


def test_every_token_exits_for_itself() -> None:
    hook = Exit(0.3, "softmax", 1, 1, True)
    merged, (layers,) = read(hook, ["exit"])
    assert len(layers.unique()) > 1
    alone = [read(hook, tree=TokenTree((token,), (-1,)))[0] for token in TREE.tokens]
    torch.testing.assert_close(merged, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_keys_above_an_exit_are_made_of_its_state() -> None:
    """The values of the layers above, which positions do not turn, from the exit state; below, and with `full`, as in
    the whole model."""
    engine, text = deep(), list(PROMPTS[0])
    contents = []
    for hook in (None, Exit(0.0, "softmax", 2, 1, True), Exit(0.0, "softmax", 2, 1, False)):
        session = Session(engine)
        session.follow(text[:-1])
        session.read()
        session.follow(text)
        session.read(EMPTY, hook)
        contents.append(engine.cache.contents(session.row.index, len(text)))
        session.close()
    whole, filled, full = contents
    session = Session(engine)
    session.follow(text)
    with torch.inference_mode():
        state = session._extend(text, EMPTY, Watch(("hidden:2",)))._parts[-1].captured("hidden:2")[-1:]
    session.close()
    for number, layer in enumerate(decoder_layers(engine.model)):
        torch.testing.assert_close(full[number], whole[number])
        if number < 2:
            torch.testing.assert_close(filled[number], whole[number])
            continue
        norm, attention = dict(layer.whole.named_children())["input_layernorm"], layer.attention
        with torch.inference_mode():
            value = attention.v_proj(norm(state))  # type: ignore[operator]
        torch.testing.assert_close(filled[number][1][:, -1].reshape(1, -1), value)
        torch.testing.assert_close(filled[number][1][:, :-1], whole[number][1][:, :-1])


def test_costs_are_layers_fills_and_probes() -> None:
    for probe, rows in (("softmax", 2), ("gap", 2), ("state", 1)):
        session, _ = steps(EarlyExit(lam=-1.0, first=2, probe=probe), PROMPTS[0], 11, deep())
        size, found = len(PROMPTS[0]), session.work.compute.numbers()
        assert found["attention"] == found["mlp"] == 6 * size + 2 * 10
        assert found["fills"] == 4 * 10
        assert found["keys"] == 6 * size * (size + 1) / 2 + 2 * sum(range(size + 1, size + 11))
        assert found["logits"] == 11, "one probe, whose logits are those of the exit"
        assert found["mlp_read"] == 6 + 2 * 10
        session, _ = steps(EarlyExit(lam=1.5, first=2, every=3, probe=probe), PROMPTS[0], 11, deep())
        assert session.work.compute.numbers()["logits"] == 1 + 10 * (3 if rows == 2 else 1), "probes after 2 and 5"


def test_the_threshold_falls_along_the_answer() -> None:
    falling = EarlyExit(lam=0.9, decay=4.0)
    assert [round(falling.threshold(token, 64), 4) for token in (0, 16, 32, 64)] == [0.9, 0.8431, 0.8222, 0.8116]
    assert EarlyExit(lam=0.9).threshold(32, 64) == 0.9


def test_nano_exits_early_and_mostly_agrees() -> None:
    """With exact keys, at a probability of 0.9 nearly every prediction is that of the whole model."""
    engine, prompt = nano()
    answer, session = greedy(prompt, 64, engine), Session(engine)
    session.follow(prompt)
    whole, depths, same = session.read(TokenTree.chain(answer)).best[1:], [], []
    for lam in (0.5, 0.9, 0.99):
        found = session.read(TokenTree.chain(answer), Exit(lam, "softmax", 1, 1, False))
        depths.append(float(found._parts[-1].captured("exit").double().mean()))
        same.append(sum(map(int.__eq__, found.best[1:], whole)) / len(whole))
    session.close()
    assert depths == sorted(depths)
    assert same == sorted(same)
    assert depths[0] < 7
    assert depths[1] < 9.5
    assert same[1] > 0.9
