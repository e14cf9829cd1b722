"""Reads a user's task from a file of rows: JSONL, CSV, Parquet, or plain text."""

import ast
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from harness.errors import UserError, suggestion
from harness.plugins.data import ANSWER, Row, checked, read_csv, read_jsonl, read_lines, read_parquet, select_fields
from harness.plugins.image_rows import image_file, image_problem, with_image
from harness.plugins.task import Example

CHECKERS = ("exact", "contains", "regex", "number", "choice", "code", "none")
INPUTS = ("question", "prompt", "turns", "messages")
TEXT = (".txt", ".text", ".md")  # one question a line
JSON = (".jsonl", ".ndjson", ".json")  # in files with other suffixes, the first line decides
HEADER = {"checker": str, "max_new_tokens": int, "stop": list[str], "open_ended": bool, "sub_tasks": bool}
FIELDS = {"question": str, "prompt": str, "turns": list[str], "messages": list, "answer": ANSWER, "entry_point": str,
          "category": str, "reference": str, "image": str}
ROLES = ("system", "user", "assistant")
GROUPED = r"\d{1,3}(?:(?:,|\{,\})\d{3})+(?!\d)"  # 1,200 and, in LaTeX, 1{,}200; in 3,4 the comma separates two numbers


def read(path: Path, checker: str) -> tuple[Row, list[Example]]:
    """Return the header of a file and its examples; `checker`, if not empty, is that of rows that name none.

    Raises `UserError` with the file and line of an invalid row.
    """
    rows, unit = numbered_rows(path)
    first = next(rows, None)
    header: Row = {}
    if first and isinstance(first[1], dict) and "task" in first[1] and not set(INPUTS) & set(first[1]):
        header = _header(first[1]["task"], f"{path}, {unit} {first[0]}")
    elif first:
        rows = chain([first], rows)
    complete = _with_defaults(rows, checker or header.pop("checker", ""))
    valid = checked(complete, str(path), {"id": str, "checker": str}, optional=FIELDS, key="id",
                    check=partial(_problem, path.parent), unit=unit)
    return header, [_example(own_name(path), row, header, path.parent) for row in valid]


def own_name(path: Path) -> str:
    """Return the name of a file without its suffixes, by which tables call its task."""
    return path.name.partition(".")[0] or path.name


def numbered_rows(path: Path) -> tuple[Iterator[tuple[int, Any]], str]:
    """Return the numbered rows of a file in any of the formats, and what the numbers count: lines or rows."""
    kind = Path(path.name.removesuffix(".gz")).suffix
    if kind == ".csv":
        return read_csv(path), "line"
    if kind == ".parquet":
        return read_parquet(path), "row"
    if kind in TEXT or (kind not in JSON and not _starts_with_object(path)):
        return ((number, {"question": line.strip()}) for number, line in read_lines(path) if line.strip()), "line"
    return read_jsonl(path), "line"


def _starts_with_object(path: Path) -> bool:
    return next((line.strip() for _, line in read_lines(path) if line.strip()), "{").startswith("{")


def _header(given: Any, where: str) -> Row:
    if not isinstance(given, dict):
        raise UserError(f"{where}: the field 'task' must be an object of settings.")
    for name in given:
        if name not in HEADER:
            raise UserError(f"{where}: there is no setting '{name}'.{suggestion(name, HEADER)}")
    header = select_fields(given, {}, HEADER, where)
    if header.get("checker", CHECKERS[0]) not in CHECKERS:
        raise UserError(f"{where}: {_unknown(header['checker'])}.")
    if header.get("max_new_tokens", 1) < 1:
        raise UserError(f"{where}: 'max_new_tokens' must be at least 1, not {header['max_new_tokens']}.")
    if "stop" in header:
        header["stop"] = tuple(header["stop"])
        if "" in header["stop"]:
            raise UserError(f"{where}: a stop string is empty.")
    return header


def _with_defaults(rows: Iterator[tuple[int, Any]], checker: str) -> Iterator[tuple[int, Any]]:
    """Yield the rows with missing fields set to defaults: a count from 1 as id, and the checker."""
    for count, (number, row) in enumerate(rows, 1):
        if isinstance(row, dict):
            row = {name: value for name, value in row.items() if value is not None}
            row = {"id": count, "checker": checker or ("exact" if "answer" in row else "none"), **row}
            if type(row["id"]) is int:
                row["id"] = str(row["id"])
            if set(INPUTS[1:]) & set(row):
                row.pop("question", None)  # a note beside the text that the model gets
        yield number, row


def _problem(folder: Path, row: Row) -> str | None:
    """Return the error of an invalid row, else None; images are searched from `folder`."""
    inputs = [name for name in INPUTS if name in row]
    if len(inputs) != 1:
        return f"give one of {', '.join(map(repr, INPUTS[:-1]))} and {INPUTS[-1]!r}" \
            + (f", not {' and '.join(inputs)}" if inputs else "")
    texts = [row[inputs[0]]] if isinstance(row[inputs[0]], str) else row[inputs[0]]
    if not texts or not all(text.strip() for text in texts if isinstance(text, str)):
        return f"the field '{inputs[0]}' is empty"
    if inputs == ["messages"] and (problem := _messages(texts)):
        return problem
    if "image" in row and (problem := image_problem(folder / row["image"], row[inputs[0]])):
        return problem
    if row["checker"] not in CHECKERS:
        return _unknown(row["checker"])
    if row["checker"] == "none":
        return None
    answers = _answers(row)
    if not answers or not all(answer.strip() for answer in answers):
        return f"the checker '{row['checker']}' needs an 'answer' that is not empty; give one, or the checker 'none'"
    return next((problem for one in answers if (problem := _answer(row, one))), None)


def _unknown(checker: str) -> str:
    return f"there is no checker '{checker}', only {', '.join(CHECKERS)}"


def _messages(messages: list[Any]) -> str | None:
    if not all(isinstance(one, dict) and set(one) == {"role", "content"} and one["role"] in ROLES
               and isinstance(one["content"], str) and one["content"].strip() for one in messages):
        return "every message must have a 'role' (system, user or assistant) and a 'content' that is not empty"
    return None if _split(messages)[0] else "all messages are the assistant's, which the model writes: add the user's"


def _split(messages: list[Row]) -> tuple[list[Row], list[Row]]:
    """Split a chat into what the model answers and the assistant's messages at its end, which the model writes anew."""
    size = max((place for place, one in enumerate(messages, 1) if one["role"] != "assistant"), default=0)
    return messages[:size], messages[size:]


def _answers(row: Row) -> list[str]:
    given = row.get("answer", [])
    return [str(one) for one in (given if isinstance(given, list) else [given])]


def _answer(row: Row, answer: str) -> str | None:
    """Return the error of an answer that its checker cannot use, else None."""
    try:
        if row["checker"] == "regex":
            re.compile(answer)
        elif row["checker"] == "number":
            number(answer)
        elif row["checker"] == "choice" and not re.fullmatch(r"\s*[A-Z]\s*", answer):
            return f"the answer '{answer}' is not one capital letter"
        elif row["checker"] == "code":
            ast.parse(answer)
            return None if row.get("entry_point", "").isidentifier() else \
                "the checker 'code' needs an 'entry_point', the name of the function that is tested"
    except (re.error, SyntaxError, ValueError) as error:
        return f"the answer is not {'a valid pattern' if row['checker'] == 'regex' else 'valid Python'} ({error})"
    except ArithmeticError:
        return f"the answer '{answer}' is not a number"
    return None


def number(text: str) -> Decimal:
    """Normalise a number, so that 1,200.0, 1{,}200 and $1200 are 1200; raises `ArithmeticError` for other texts."""
    ungrouped = re.sub(rf"(?<![\d.]){GROUPED}", lambda found: re.sub("[,{}]", "", found[0]), text.strip())
    value = Decimal(ungrouped.replace("$", "").replace("\u2212", "-"))
    if not value.is_finite():
        raise ArithmeticError(text)
    return value.normalize() + 0  # no trailing zeros, and no negative zero


def _example(name: str, row: Row, header: Row, folder: Path) -> Example:
    """Convert a row to an example; `gold` includes header, reference and the hash of the image in `folder`.

    So any change alters the data hash.
    """
    images = (image_file(folder / row["image"]),) if "image" in row else ()
    row = row | {field: with_image(row[field]) for field in INPUTS if images and field in row}
    messages, written = _split(row.get("messages", []))
    if messages:
        row = row | {"messages": messages}
    if written:
        row = {"reference": "\n".join(one["content"] for one in written)} | row
    turns = row.get("turns") or [messages[-1]["content"] if messages else row.get("question") or row["prompt"]]
    extra: Row = {key: row[key] for key in ("messages", "reference", "entry_point") if key in row}
    extra |= {"image": images[0].sha256} if images else {}
    gold: Row = {"checker": row["checker"], "answer": _answers(row), "prompt": row.get("prompt", ""), **extra}
    return Example(id=f"{name}/{row['id']}", turns=tuple(turns), gold=gold | ({"task": header} if header else {}),
                   category=row.get("category", ""), reference=row.get("reference", ""), images=images)
