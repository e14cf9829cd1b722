"""Specs: what is read, what is refused and in which words, and what their parts are."""

import pytest
from transformers import GenerationConfig

from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
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
    ("greedy,", ["greedy"]), ("", [""]), (",", [","]),
])
def test_specs_between_commas(text: str, specs: list[str]) -> None:
    assert separated([text, "dola"]) == [*specs, "dola"]
    assert separated(None) == []


@pytest.mark.parametrize(("theirs", "ours"), [
    ("beam:num_beams=8", "beam:width=8"), ("top_p:top_p=0.8", "top_p:p=0.8"),
    ("speculative:top_p=0.8", "speculative:p=0.8"), ("dola:dola_layers=high", "dola:layers=high"),
    ("diverse_beam:num_beams=6,num_beam_groups=3,diversity_penalty=1", "diverse_beam:width=6,groups=3,diversity=1"),
    ("speculative:num_assistant_tokens=8", "speculative:gamma=8"),
    ("epsilon:epsilon_cutoff=0.01", "epsilon:least=0.01"),
    ("greedy+no_repeat_ngram:no_repeat_ngram_size=2", "greedy+no_repeat_ngram:n=2"),
])
def test_knobs_go_by_their_names_in_transformers(theirs: str, ours: str) -> None:
    assert STRATEGIES.build(theirs).spec() == STRATEGIES.build(ours).spec()


def test_a_knob_is_given_once_and_by_a_name_it_has() -> None:
    twice = "beam: the knob 'width' is given twice, the second time as 'num_beams'"
    for text, words in (("beam:width=3,num_beams=3", twice),
                        ("beam:=3", "beam has no knob ''"), ("beam:num_beam=3", "beam has no knob 'num_beam'")):
        with pytest.raises(UserError, match=words):
            STRATEGIES.build(text)


def test_the_names_in_transformers_are_arguments_of_generate_there() -> None:
    names = {about.also for name in STRATEGIES.built_in() for about in STRATEGIES.get(name).knobs().values()} - {""}
    assert len(names) > 15
    assert names <= set(vars(GenerationConfig()))
