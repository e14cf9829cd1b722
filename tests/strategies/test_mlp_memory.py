"""A network that imitates neighbours: explicit mixtures, votes without the entry itself, and what training does."""

import sys
from functools import cache
from math import exp
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.heads.network import TargetParts
from harness.models.loading import load as load_model
from harness.plugins.strategy import Request
from strategies.greedy import Greedy
from strategies.mlp_memory import MlpMemory
from strategies.parts.imitating import Votes, trained, votes_of_others
from strategies.parts.imitation import Imitation
from strategies.parts.keys import Passage
from strategies.parts.neighbours import Datastore
from strategies.tools import mlp_memory as tool
from strategies.tools.knn_datastore import made
from strategies.top_p import TopP
from tests.decode import decode, engine
from tests.models import prompts, tiny_model

ARCHS = ("llama", "qwen2", "gpt2", "opt")
KEPT = [text * 3 for text in prompts(20, 97, 7)]


@cache
def target(arch: str = "llama") -> Engine:
    return engine(tiny_model(arch))


@cache
def store(arch: str = "llama") -> Datastore:
    return made(target(arch), KEPT)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A network with random weights for each architecture."""
    found = {}
    for arch in ARCHS:
        torch.manual_seed(1)
        network, path = Imitation(TargetParts.of(target(arch)), 2, 16), tmp_path_factory.mktemp("memory") / arch
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.7)
        network.save(path, store(arch).start, torch.from_numpy(store(arch).keys[:store(arch).start.positions]))
        found[arch] = str(path)
    return found


@torch.inference_mode()
def explicit(arch: str, file: str, text: list[int], lam: float) -> Tensor:
    """The mixture (V,) in float64 from the weights in the file."""
    from safetensors.torch import load_file

    model, weights, seen = target(arch).model, load_file(file), list[Tensor]()
    module = {"gpt2": lambda: model.transformer.h[-1].mlp, "opt": lambda: model.model.decoder.layers[-1].fc1}.get(
        arch, lambda: model.model.layers[-1].mlp)()
    hook = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    own = model(torch.tensor([text])).logits[0, -1].double().softmax(-1)
    hook.remove()

    def normed(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean() + torch.finfo(torch.float32).eps).sqrt() * weights[f"{name}.weight"].double()
    x = seen[0].reshape(len(text), -1)[-1].double()
    for block in ("blocks.0", "blocks.1"):
        up, down = (lambda x, n=f"{block}.{part}": weights[f"{n}.weight"].double() @ x + weights[f"{n}.bias"].double()
                    for part in ("up", "down"))
        inner = up(normed(x, f"{block}.norm"))
        x = x + down(inner * (1 + torch.erf(inner / 2 ** 0.5)) / 2)
    memory = (model.get_output_embeddings().weight.double() @ normed(x, "norm")).softmax(-1)
    return lam * memory + (1 - lam) * own


@pytest.mark.parametrize("arch", ARCHS)
def test_without_weight_it_is_the_model(files: dict[str, str], arch: str) -> None:
    for prompt in prompts(3, 97, 1):
        assert decode(MlpMemory(lam=0, memory=files[arch]), target(arch), prompt) == \
            decode(Greedy(), target(arch), prompt)
        assert decode(MlpMemory(lam=0, memory=files[arch], temperature=0.8, p=0.9), target(arch), prompt) == \
            decode(TopP(p=0.9, temperature=0.8), target(arch), prompt)


@pytest.mark.parametrize("lam", [0.4, 1.0])
@pytest.mark.parametrize("arch", ARCHS)
def test_texts_are_those_of_the_explicit_mixture(files: dict[str, str], arch: str, lam: float) -> None:
    method, changed = MlpMemory(lam=lam, memory=files[arch]), 0
    for prompt in prompts(3, 97, 4):
        written = list[int]()
        while len(written) < 10 and 2 not in written:
            written.append(int(explicit(arch, files[arch], [*prompt, *written], lam).argmax()))
        assert decode(method, target(arch), prompt, new=10) == written
        changed += written != decode(Greedy(), target(arch), prompt, new=10)
    assert changed


def test_an_answer_goes_on_as_it_began(files: dict[str, str]) -> None:
    method, prompt = MlpMemory(lam=0.6, memory=files["llama"]), KEPT[0]
    whole = decode(method, target(), prompt, new=10, eos=None)
    session, found = Session(target()), list[int]()
    for step in method.generate(session, Request(tuple(prompt), 10, PhiloxStream(0)).behind(whole[:4])):
        found += step
        if len(found) == 6:
            break
    session.close()
    assert found == whole[4:]


def test_an_entry_does_not_vote_for_itself() -> None:
    keys = np.array([[0.0], [0.0], [1.0], [3.0]], np.float32)
    small = Datastore(keys, np.array([5, 6, 7, 5], np.int32), 9, Passage([1, 2]))
    law = votes_of_others(small, 2, 1.0).law(torch.arange(4), 9)
    e, far = exp(-1), exp(-9 + 4)
    assert law[0, [6, 7]].tolist() == pytest.approx([1 / (1 + e), e / (1 + e)])
    assert law[1, [5, 7]].tolist() == pytest.approx([1 / (1 + e), e / (1 + e)])
    assert law[2, [5, 6]].tolist() == pytest.approx([0.5, 0.5])
    assert law[3, 7].item() == pytest.approx(1 / (1 + far))
    assert law.sum(1).tolist() == pytest.approx([1] * 4)


@pytest.mark.parametrize("k", [3, 1000])
def test_votes_of_others_are_those_of_brute_force(k: int) -> None:
    known, spread = store(), 30.0
    keys, values = torch.from_numpy(known.keys).double(), known.values
    found = votes_of_others(known, k, spread).law(torch.arange(len(values)), 97)
    for i in range(0, len(values), 17):
        distances = (keys - keys[i]).square().sum(-1)
        nearest = [j for j in distances.argsort().tolist() if j != i][:k]
        wanted = torch.zeros(97, dtype=torch.float64)
        for j in nearest:
            wanted[values[j]] += torch.exp(-(distances[j] - distances[nearest[0]]) / spread)
        assert torch.allclose(found[i].double(), wanted / wanted.sum(), atol=1e-3)


def test_the_loss_is_that_of_votes_and_tokens() -> None:
    known, told = store(), list[float]()
    votes = votes_of_others(known, 8, 30.0)
    trained(target(), known, votes, inner=16, steps=1, size=32, alpha=0.3, seed=4,
            tell=lambda step, loss: told.append(loss))
    rows = torch.randint(len(known.values), (32,), generator=torch.Generator().manual_seed(4))
    keys, law = torch.from_numpy(known.keys[rows.numpy()]), votes.law(rows, 97)
    first = keys * (keys.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt()  # blocks add nothing
    with torch.inference_mode():
        log_p = target().model.get_output_embeddings()(first).log_softmax(-1)
    kl = (torch.where(law > 0, law * (law.clamp_min(1e-30).log() - log_p), 0)).sum(-1).mean()
    own = -log_p[range(32), known.values[rows.numpy()].tolist()].mean()
    assert told == [pytest.approx(float(0.3 * kl + 0.7 * own), rel=1e-4)]


def test_training_brings_the_network_near_to_the_votes_and_changes_no_weight_of_the_model() -> None:
    """What a network was trained on; held-out texts of a random model have nothing in common with it."""
    known, model = store(), target().model
    before = [weight.clone() for weight in model.parameters()]
    votes = votes_of_others(known, 8, 30.0)
    untrained = Imitation(TargetParts.of(target()), 2, 64)

    def divergence(network: Imitation, votes: Votes) -> float:
        law = votes.law(torch.arange(len(known.values)), 97)
        with torch.inference_mode():
            log_p = network(torch.from_numpy(known.keys))
        return float(torch.nn.functional.kl_div(log_p, law, reduction="batchmean"))
    network = trained(target(), known, votes, inner=64, steps=200, size=64, rate=3e-3, alpha=1.0)
    assert divergence(network, votes) < divergence(untrained, votes) / 3
    assert all(torch.equal(weight, copy) for weight, copy in zip(model.parameters(), before, strict=True))
    assert all(weight.grad is None for weight in model.parameters())


def test_what_is_no_memory_of_the_model_is_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a memory: train one with python -m"):
        decode(MlpMemory(), target(), KEPT[0])
    (tmp_path / "other").write_text("nothing")
    for name in (tmp_path / "other", tmp_path / "missing"):
        with pytest.raises(UserError, match="is no memory: train one"):
            decode(MlpMemory(memory=str(name)), target(), KEPT[0])
    for other in (engine(tiny_model("llama", seed=1)), engine(tiny_model("llama", vocab=5)), target("gpt2")):
        with pytest.raises(Unsupported, match="was trained for another model"):
            decode(MlpMemory(memory=files["llama"]), other, [1, 2, 3])


def test_the_command_trains_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("Tom has 3 red apples. Tom has 4 green apples.")
    model = load_model("nano")
    made(model.engine, model.tokenizer(["Tom has 3 red apples. Tom has 4 green apples."]).input_ids, tmp_path / "store")
    words = ["mlp_memory", "--store", str(tmp_path / "store"), "--texts", str(tmp_path / "text"), "--steps", "30",
             "--size", "8", "--inner", "8", "--k", "3", "--out", str(tmp_path / "memory")]
    monkeypatch.setattr(sys, "argv", words)
    tool.main()
    titles, alone, near, network = capsys.readouterr().out.splitlines()
    assert titles.split() == ["perplexity", "KL", "of", "votes", "ms", "a", "token", "bytes"]
    assert float(near.split()[1]) < float(alone.split()[1])
    assert int(network.split()[-1].replace(",", "")) == 4 * (2 * (192 + 2 * 8 * 192 + 8 + 192) + 192)
    answer = decode(MlpMemory(memory=str(tmp_path / "memory"), lam=0.9), model.engine, [5, 6, 7], new=3, eos=None)
    assert len(answer) == 3
    monkeypatch.setattr(sys, "argv", [*words, "--alpha", "2"])
    with pytest.raises(UserError, match="--alpha must be from 0 to 1"):
        tool.main()
