"""Tasks whose answers are JSON: their rows and schemas, and that valid and right answers score."""

import json
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerFast

import harness
from harness.errors import UserError
from harness.plugins.data import DataSource
from harness.plugins.registry import TASKS
from harness.plugins.task import Example
from harness.scoring.json_schema import fits, problem
from tests.pair import tokenizer

NANO = TASKS.build("nano_json")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "n": {"type": "integer"}}, "required": ["name"]}
ANSWER = {"name": "Tom", "n": 2}


def test_every_expected_object_fits_its_schema_and_scores() -> None:
    examples = NANO.examples(DataSource())
    nano = PreTrainedTokenizerFast.from_pretrained(Path(harness.__file__).parent / "nano" / "weights" / "nano")
    assert len({one.id for one in examples}) == len(examples) == 200
    for one in examples:
        gold = one.gold["answer"]
        assert len(gold) == 2
        assert all(value[1:] in one.turns[0] for value in gold.values())
        assert fits(gold, json.loads(NANO.schema(one)))
        assert len(nano(NANO.expected(one))["input_ids"]) < NANO.max_new_tokens
    assert NANO.score(examples[0], [NANO.expected(examples[0])]) == {"valid": 1, "exact": 1, "fields": 1}


def example(answer: Any = ANSWER, schema: Any = SCHEMA) -> Example:
    return Example("x", ("?",), {key: value for key, value in (("answer", answer), ("schema", schema)) if value})


@pytest.mark.parametrize(("text", "valid", "exact", "fields"), [
    ('{"name": "Tom", "n": 2}', 1, 1, 1), (' {"n": 2.0,\n"name": "Tom"}\n', 1, 1, 1), ('{"name": "Tom"}', 1, 0, 0.5),
    ('{"name": "Tim", "n": 2}', 1, 0, 0.5), ('{"name": "Tom", "n": 2, "more": 1}', 1, 0, 1), ('{"n": 2}', 0, 0, 0.5),
    ('{"name": "Tom", "n": 2} !', 0, 0, 0), ('{"name": "Tom", "n": NaN}', 0, 0, 0), ("", 0, 0, 0),
    ('{"n": 1, "n": 2, "name": "Tom"}', 0, 0, 0), ('{"name": "Tom", "n": true}', 0, 0, 0.5), ("[" * 9999, 0, 0, 0)])
def test_scores(text: str, valid: float, exact: float, fields: float) -> None:
    assert NANO.score(example(), [text]) == {"valid": valid, "exact": exact, "fields": fields}


def test_only_validity_is_scored_without_an_expected_object() -> None:
    assert NANO.score(example(answer=None), ['{"name": "x"}']) == {"valid": 1}
    assert NANO.score(example(None, None), ["3"]) == {"valid": 1}
    scores, reason = NANO.score_and_reason(example(), ['{"name": 3}'])
    assert (scores["valid"], reason) == (0, "the answer does not fit the schema")


TEXT: dict[str, Any] = {"type": "string", "minLength": 2, "maxLength": 3, "pattern": "^a"}
TREE: dict[str, Any] = {"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}},
                                           "additionalProperties": False}}, "$ref": "#/$defs/node"}


@pytest.mark.parametrize(("schema", "good", "bad"), [
    (TEXT, ["ab", "abc"], ["a", "abcd", "bc", 3]), ({"type": ["integer", "null"]}, [1, 1.0, None], [1.5, True, "1"]),
    ({"enum": [1, "a", [2]]}, [1.0, "a", [2]], [True, "b", []]), ({"const": {"a": 1}}, [{"a": 1}], [{}, {"a": 2}]),
    ({"minimum": 1, "exclusiveMaximum": 3}, [1, 2.9, "x"], [0, 3]),
    ({"maximum": 3, "exclusiveMinimum": 1}, [3, 1.1], [1, 4]),
    ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3], ["a"]]),
    ({"prefixItems": [{"type": "string"}], "items": False}, [["a"], []], [[1], ["a", 1]]),
    ({"properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": {"type": "string"}},
     [{"a": 1}, {"a": 1, "b": "c"}, 3], [{}, {"a": "1"}, {"a": 1, "b": 2}]),
    ({"anyOf": [{"type": "integer"}, {"const": "x"}]}, [1, "x"], ["y"]),
    ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, [0, 4], [2]),
    ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, [2], [0, 4]),
    (TREE, [{}, {"next": {"next": {}}}], [{"next": 1}, {"next": {"other": {}}}])])
def test_keywords(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert problem(schema) is None
    assert all(fits(value, schema) for value in good)
    assert not any(fits(value, schema) for value in bad)


def test_the_library_agrees_about_the_values() -> None:
    """On written values of schemas whose keywords both know."""
    letters = from_tokenizer(tokenizer())
    for schema, values in ((TEXT, ["ab", "a", "abcd", "bc", 3]), (SCHEMA, [ANSWER, {"n": 2}, {"name": "x"}, 3]),
                           ({"enum": [1, "a", [2]]}, [1, "a", [2], "b", []]), (TREE, [{}, {"next": {}}, {"next": 1}])):
        for value in values:
            matcher = LLMatcher(letters, LLMatcher.grammar_from_json_schema(json.dumps(schema)), log_level=0)
            taken = matcher.consume_tokens(tokenizer()(json.dumps(value))["input_ids"]) and matcher.is_accepting()
            assert taken == fits(value, schema), (schema, value)


def rows(tmp_path: Path, *given: Any) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def test_the_rows_of_a_file(tmp_path: Path) -> None:
    path = rows(tmp_path, {"prompt": "Tom has 2.\n", "schema": SCHEMA, "answer": ANSWER},
                {"question": "Who?", "category": "names"})
    task = TASKS.build(f"json_file:file={path}")
    raw, chat = task.examples(DataSource())
    assert (raw.id, chat.id, chat.category) == ("mine/1", "mine/2", "names")
    assert task.prompt(raw, []) == "Tom has 2.\n"
    assert task.prompt(chat, []) == [{"role": "user", "content": "Who?"}]
    assert json.loads(task.schema(raw)) == SCHEMA
    assert task.schema(chat) == task.expected(chat) == ""
    assert task.headline == "exact"
    assert task.score(raw, ['{"name": "Tom", "n": 2}'])["exact"] == 1
    assert TASKS.build(f"json_file:file={rows(tmp_path, {'prompt': 'x'})}").headline == "valid"


@pytest.mark.parametrize(("row", "reason"), [
    ({}, "give one of 'prompt' and 'question'"), ({"prompt": "a", "question": "b"}, "give one of"),
    ({"prompt": " "}, "the prompt is empty"), ({"prompt": "a", "schema": 3}, "must be an object"),
    ({"prompt": "a", "schema": {"items": {"type": "text"}}}, "the schema is wrong: 'text' is not"),
    ({"prompt": "a", "schema": {"$ref": "#/$defs/x"}}, "the schema refers to #/.defs/x, which it has not"),
    ({"prompt": "a", "schema": {"items": {"$ref": "https://example.org/x"}}}, "refers to https"),
    ({"prompt": "a", "schema": {"pattern": "("}}, "is not a 'regex'"),
    ({"prompt": "a", "schema": SCHEMA, "answer": {"n": 1}}, "the answer does not fit the schema"), (3, "JSON object")])
def test_a_wrong_row_is_refused_with_its_line(row: Any, reason: str, tmp_path: Path) -> None:
    path = rows(tmp_path, {"prompt": "fine"}, row)
    with pytest.raises(UserError, match=rf"mine.jsonl, line 2: .*{reason}"):
        TASKS.build(f"json_file:file={path}").examples(DataSource())


def test_a_file_is_needed() -> None:
    with pytest.raises(UserError, match="needs a file"):
        TASKS.build("json_file").examples(DataSource())
