"""Specs: what is read, what is refused and in which words, and what their parts are."""

import pytest

from harness.errors import UserError
from harness.plugins.spec import Spec, Stage, separated


@pytest.mark.parametrize(("text", "name", "options"), [
    ("greedy", "greedy", {}),
    (" greedy ", "greedy", {}),
    ("greedy:", "greedy", {}),
    ("top_p:p=0.9,temperature=0.7", "top_p", {"p": "0.9", "temperature": "0.7"}),
    (" top_p : p = 0.9 , temperature=1,", "top_p", {"p": "0.9", "temperature": "1"}),
    ("a:path=C:\\x=y", "a", {"path": "C:\\x=y"}),
])
def test_specs_are_split(text: str, name: str, options: dict[str, str]) -> None:
    assert Spec.parse(text) == Spec((Stage(name, options),))


@pytest.mark.parametrize(("text", "words"), [
    ("top_p:p", "In 'top_p:p', write each knob as NAME=VALUE, not 'p'."),
    ("top_p:p=", "In 'top_p:p=', write each knob as NAME=VALUE, not 'p='."),
    ("top_p:p=1,p=0.5", "In 'top_p:p=1,p=0.5', the knob 'p' is given twice."),
])
def test_malformed_specs_are_refused(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Spec.parse(text)
    assert str(caught.value) == words


def test_a_plus_separates_strategies_and_nothing_else() -> None:
    assert Spec.parse("top_p:p=0.9+best_of_n:n=8") == Spec(
        (Stage("top_p", {"p": "0.9"}), Stage("best_of_n", {"n": "8"})))
    assert Spec.parse("a+b+c") == Spec((Stage("a"), Stage("b"), Stage("c")))
    assert Spec.parse("rest:store=c++/x.npz,n=1e+5") == Spec.of("rest", store="c++/x.npz", n="1e+5")


def test_the_last_stage_names_a_spec_and_works_on_those_before_it() -> None:
    spec = Spec.parse("top_p:p=0.9+repetition_penalty+best_of_n:n=8")
    assert (spec.name, spec.names, spec.knobs) == ("best_of_n", "top_p+repetition_penalty+best_of_n", {"n": "8"})
    assert str(spec.wrapped) == "top_p:p=0.9+repetition_penalty"
    assert Spec.of("greedy").wrapped is None
    assert str(spec.changed({"n": "4", "m": "x"})) == "top_p:p=0.9+repetition_penalty+best_of_n:n=4,m=x"
    assert str(spec) == "top_p:p=0.9+repetition_penalty+best_of_n:n=8"
    assert spec.readable
    assert not Spec.of("a", k="x,y").readable
    assert not Spec.of("a", k="x+y").readable
    assert str(Stage("a", {"k": "1", "l": "2"}).only({"l"})) == "a:l=2"


@pytest.mark.parametrize(("text", "specs"), [
    ("greedy,beam:width=4,length_penalty=0,top_p", ["greedy", "beam:width=4,length_penalty=0", "top_p"]),
    ("top_p:p=0.9,temperature=0.7+mbr:n=8,greedy+mbr", ["top_p:p=0.9,temperature=0.7+mbr:n=8", "greedy+mbr"]),
    ("task_file:file=a:b=c.jsonl,checker=number,gsm8k", ["task_file:file=a:b=c.jsonl,checker=number", "gsm8k"]),
    ("greedy,", ["greedy"]), ("", []),
])
def test_specs_between_commas(text: str, specs: list[str]) -> None:
    assert separated([text, "dola"]) == [*specs, "dola"]
    assert separated(None) == []
