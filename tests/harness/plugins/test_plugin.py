"""Knobs: what is read, what is refused and in which words, and printing that reads back as the same."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UserError, suggestion
from harness.plugins.plugin import Plugin, knob
from harness.plugins.spec import Spec


@dataclass(frozen=True)
class Sample(Plugin):
    width: int = knob(4, "beams", low=1, high=8, sweep=(1, 2))
    share: float = knob(0.5, "of the mass", low=0, high=1)
    latest: bool = knob(False, "the latest")
    rule: str = knob("sum", "how", choices=("sum", "max"))
    most: int | None = knob(None, "at most", low=2)
    free: float = knob(1.0, "no range")


@dataclass(frozen=True)
class Bare(Plugin):
    """No knobs."""


DEFAULT = "test_plugin:width=4,share=0.5,latest=False,rule=sum,most=None,free=1"


def test_the_name_is_the_file_and_the_spec_names_every_knob() -> None:
    assert Sample().spec() == DEFAULT
    assert Bare().spec() == "test_plugin"
    assert list(Sample.knobs()) == ["width", "share", "latest", "rule", "most", "free"]
    assert Sample.knobs()["width"].sweep == (1, 2)


@pytest.mark.parametrize(("options", "values"), [
    ({"width": "8"}, {"width": 8}),
    ({"share": "1"}, {"share": 1.0}),
    ({"latest": "True"}, {"latest": True}),
    ({"most": "none"}, {"most": None}),
    ({"most": "3"}, {"most": 3}),
    ({"rule": "max", "free": "-1e9"}, {"rule": "max", "free": -1e9}),
])
def test_text_becomes_values(options: dict[str, str], values: dict[str, object]) -> None:
    built = Sample.configured(options)
    for key, value in values.items():
        assert getattr(built, key) == value
        assert type(getattr(built, key)) is type(value)


@pytest.mark.parametrize(("options", "words"), [
    ({"widht": "3"}, "test_plugin has no knob 'widht'. Did you mean 'width'?"),
    ({"zzz": "3"}, "test_plugin has no knob 'zzz'. Known: free, latest, most, rule, share, width."),
    ({"width": "0"}, "test_plugin: knob 'width' must be at least 1, not 0."),
    ({"width": "9"}, "test_plugin: knob 'width' must be at most 8, not 9."),
    ({"width": "4.5"}, "test_plugin: knob 'width' must be a whole number, not '4.5'."),
    ({"share": "x"}, "test_plugin: knob 'share' must be a number, not 'x'."),
    ({"share": "nan"}, "test_plugin: knob 'share' must be at least 0, not nan."),
    ({"free": "nan"}, "test_plugin: knob 'free' must be a number, not nan."),
    ({"latest": "yes"}, "test_plugin: knob 'latest' must be true or false, not 'yes'."),
    ({"rule": "min"}, "test_plugin: knob 'rule' must be one of sum, max, not min."),
    ({"most": "1"}, "test_plugin: knob 'most' must be at least 2, not 1."),
])
def test_bad_options_are_refused_in_one_sentence(options: dict[str, str], words: str) -> None:
    with pytest.raises(UserError) as caught:
        Sample.configured(options)
    assert str(caught.value) == words


def test_a_plugin_without_knobs_says_so() -> None:
    with pytest.raises(UserError, match=r"has no knob 'p'\. It has no knobs\."):
        Bare.configured({"p": "1"})


def test_values_given_in_python_are_checked_too() -> None:
    with pytest.raises(UserError, match="must be at most 1"):
        Sample(share=2.0)


@given(width=st.integers(1, 8), share=st.floats(0, 1), latest=st.booleans(), rule=st.sampled_from(["sum", "max"]),
       most=st.none() | st.integers(2), free=st.floats(allow_nan=False))
def test_what_is_printed_reads_back_as_the_same(width: int, share: float, latest: bool, rule: str, most: int | None,
                                                free: float) -> None:
    plugin = Sample(width, share, latest, rule, most, free)
    spec = Spec.parse(plugin.spec())
    again = Sample.configured(spec.knobs)
    assert again == plugin
    assert again.spec() == plugin.spec()
    assert spec.name == plugin.name


def test_near_values_have_different_specs() -> None:
    assert Sample(share=0.1234567).spec() != Sample(share=0.1234568).spec()
    assert "share=0.9," in Sample(share=0.9).spec()


@pytest.mark.parametrize(("name", "words"), [
    ("top_pp", " Did you mean 'top_p'?"), ("xyz", " Known: beam, top_p."),
])
def test_the_nearest_name_is_suggested(name: str, words: str) -> None:
    assert suggestion(name, ["top_p", "beam"]) == words
    assert suggestion(name, []) == ""


@dataclass(frozen=True)
class Stored(Plugin):
    store: str = knob("nano", "the embedded corpus, or a file", file=True)


def test_a_file_is_the_same_by_its_absolute_and_its_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                  ) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.npz").write_text("x")
    near, far = Stored.configured({"store": "a.npz"}), Stored.configured({"store": str(tmp_path / "a.npz")})
    assert near == far
    assert (near.spec(), near.files()) == ("test_plugin:store=a.npz", {"store": Path("a.npz")})
    assert Stored.configured({"store": "nano"}).files() == Stored().files() == {}
    assert Stored.configured({"store": "/no/such/file"}).spec() == "test_plugin:store=/no/such/file"
