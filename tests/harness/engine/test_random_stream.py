"""Random streams depend on what is sampled and on nothing else."""

import torch

from harness.engine.random_stream import CopyingStream, PhiloxStream


def numbers(stream: PhiloxStream) -> list[float]:
    return stream.uniform(4).tolist()


def test_a_stream_is_that_of_its_parts() -> None:
    assert numbers(PhiloxStream(0, "prompt", 1)) == numbers(PhiloxStream(0, "prompt", 1))
    different = [(0, "prompt", 1), (0, "prompt", 2), (1, "prompt", 1), (0, "prompt1"), (1, 23), (12, 3), (123,)]
    assert len({tuple(numbers(PhiloxStream(*parts))) for parts in different}) == len(different)


def test_branches_differ_and_do_not_depend_on_earlier_draws() -> None:
    stream, later = PhiloxStream("key"), PhiloxStream("key")
    later.uniform(100)
    branches = [numbers(stream.branch(number)) for number in range(3)]
    assert branches == [numbers(later.branch(number)) for number in range(3)]
    assert len(set(map(tuple, [*branches, numbers(stream)]))) == 4


def test_a_weight_of_zero_is_never_drawn_and_a_chance_of_zero_never_comes() -> None:
    stream = PhiloxStream("zero")
    weights = torch.tensor([0.0, 2.0, 0.0, 1.0])
    drawn = [stream.choose(weights) for _ in range(300)]
    assert set(drawn) == {1, 3}
    assert 170 < drawn.count(1) < 230
    assert not any(stream.coin(0.0) for _ in range(100))
    assert all(stream.coin(1.0) for _ in range(100))


def test_a_copying_stream_draws_the_same_and_copies_tokens_with_a_choice() -> None:
    weights, tokens = torch.tensor([0.1, 0.5, 0.4]), torch.tensor([[7, 150_000], [3, 0]])
    plain, copying = PhiloxStream("key"), CopyingStream(PhiloxStream("key"), tokens)
    assert copying.copied is None
    assert [copying.coin(0.5), copying.choose(weights), copying.coin(0.5)] == [
        plain.coin(0.5), plain.choose(weights), plain.coin(0.5)]
    assert copying.copied == tokens.tolist()
