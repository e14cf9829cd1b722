"""A fake of vLLM's engine process: it starts, refuses, answers and dies as its options demand."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.backends.vllm_worker import Reply

FACTS = {"eager": True, "prefix_caching": True, "block": 16, "max_len": 64, "texts": 8, "runner": "V1",
         "mended": {"temperature of drafts": True}}
START = {"memory": ("ValueError", "No available memory for the cache blocks.\nEngine core initialization failed."),
         "method": ("ValidationError", "1 validation error for SpeculativeConfig\n  Value error, no head is there")}


def serve(pipe: Any, options: dict[str, Any], plugins: Sequence[Path], threads: int, log: str) -> None:
    """Answer with the tokens 3, 4, 5, …, the later ones in one drafted step; the option `fake` is the failure."""
    wrong = options.get("fake", "")
    if wrong in START and (wrong == "memory" or "speculative_config" in options):
        return pipe.send(("failed", *START[wrong]))
    if wrong == "start":
        os._exit(7)
    method = options.get("speculative_config", {}).get("method")
    active = {"method": "medusa" if wrong == "another" else method}
    pipe.send(("ready", FACTS | active | {"pid": os.getpid(), "given": sorted(map(str, options))}))
    done = 0
    while True:
        try:
            kind, texts, sampling, _ = pipe.recv()
        except EOFError:
            return None
        if sampling.get("min_p") == 0.5:
            pipe.send(("wrong", "RuntimeError", "kernel trouble"))
            continue
        done += 1
        if wrong == "killed" and done > 5:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(10)
        pipe.send(("done", [reply(text.max_tokens, kind) for text in texts]))


def reply(count: int, kind: str) -> Reply:
    """Return `count` tokens, one in the first step and the others in a second one; a search has a single step."""
    tokens = [3 + i % 100 for i in range(count)]
    if kind == "beam":
        return Reply(tokens, [count], [0.5], stop="ended")
    return Reply(tokens, [1, count - 1], [0.25, 0.5], [0, count], [0, count - 2], shared=2, stop="length")
