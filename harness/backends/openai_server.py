"""The description of a running server: its software, its model, and its counters."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.backends.openai_connection import REFUSED, Connection, Failed
from harness.errors import UserError, suggestion

OWNERS = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}
VERSIONS = {"vLLM": ("/version", "version"), "SGLang": ("/get_server_info", "version"),
            "llama.cpp": ("/props", "build_info")}
COUNTERS = {"drafts": "vllm:spec_decode_num_drafts_total", "drafted": "vllm:spec_decode_num_draft_tokens_total",
            "accepted": "vllm:spec_decode_num_accepted_tokens_total",
            "prefix_queried": "vllm:prefix_cache_queries_total", "prefix_hit": "vllm:prefix_cache_hits_total",
            "preemptions": "vllm:num_preemptions_total", "written": "vllm:generation_tokens_total"}
LINE = re.compile(r"^(?P<name>[\w:]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


@dataclass(frozen=True)
class Server:
    """A server's software (`kind`, "" if unknown), the `model` name for requests, and its context `max_len`.

    `counts` means that it has the counters of `COUNTERS`, `speculates` that it drafts in every request.
    """

    kind: str
    version: str | None
    model: str
    max_len: int | None
    counts: bool = False
    speculates: bool = False


def inspect_server(connection: Connection, model: str, folder: str) -> Server:
    """Return the description of the server; raises `UserError` if it does not answer or does not serve `model`.

    The server may name the model by the `folder` that it was loaded from.
    """
    cards = _cards(connection)
    card = next((one for one in cards if one["id"] == model), None) or next(
        (one for one in cards if _same(str(one.get("root") or one["id"]), folder)), None)
    if card is None:
        raise UserError(f"The server at {connection.where} has no model '{model}'."
                        f"{suggestion(model, [one['id'] for one in cards])}")
    kind = OWNERS.get(str(card.get("owned_by", "")).lower(), "")
    counters = read_counters(connection) if kind == "vLLM" else {}
    return Server(kind, _version(connection, kind), card["id"], _max_len(card), bool(counters), "drafts" in counters)


def read_counters(connection: Connection) -> dict[str, float]:
    """Return the server's counters since its start, over all its clients; empty if it has none."""
    try:
        return counted(connection.get(f"{_root(connection)}/metrics"))
    except Failed:
        return {}


def counted(text: str) -> dict[str, float]:
    """Parse counters in Prometheus format, each summed over its labels; accepted drafts also by position."""
    names = {name: key for key, name in COUNTERS.items()}
    counters = dict[str, float]()
    for line in text.splitlines():
        if not (match := LINE.match(line)):
            continue
        key = names.get(match["name"])
        if match["name"] == "vllm:spec_decode_num_accepted_tokens_per_pos_total":
            at = re.search(r'position="(\d+)"', match["labels"] or "")
            key = f"accepted_at_{at[1]}" if at else None
        if key:
            counters[key] = counters.get(key, 0.0) + float(match["value"])
    return counters


def _cards(connection: Connection) -> list[dict[str, Any]]:
    try:
        listing = json.loads(connection.get(f"{connection.where}/models"))
        cards = [one for one in listing["data"] if isinstance(one["id"], str)]
    except Failed as error:
        if error.status in REFUSED:
            raise UserError(f"{connection.where} does not list its models ({error}); check --base-url, which "
                            "ends in /v1 for most servers, and the key (--key-variable).") from None
        raise UserError(f"No server answers at {connection.where} ({error}); start it, or check --base-url.") from None
    except (ValueError, LookupError, TypeError):
        raise UserError(f"What answers at {connection.where} is no OpenAI-compatible server; check --base-url, which "
                        "ends in /v1 for most of them.") from None
    if not cards:
        raise UserError(f"The server at {connection.where} serves no model.")
    return cards


def _same(one: str, other: str) -> bool:
    return one == other or (Path(other).is_dir() and Path(one).resolve() == Path(other).resolve())


def _root(connection: Connection) -> str:
    return connection.where.removesuffix("/v1")


def _version(connection: Connection, kind: str) -> str | None:
    if kind not in VERSIONS:
        return None
    path, key = VERSIONS[kind]
    try:
        return str(json.loads(connection.get(_root(connection) + path))[key])
    except (Failed, ValueError, LookupError, TypeError):
        return None


def _max_len(card: dict[str, Any]) -> int | None:
    meta = card.get("meta") if isinstance(card.get("meta"), dict) else {}
    values: Sequence[Any] = (card.get("max_model_len"), (meta or {}).get("n_ctx"), (meta or {}).get("n_ctx_train"))
    return next((int(value) for value in values if isinstance(value, int) and value > 0), None)
