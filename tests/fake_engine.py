"""A stand-in for vLLM's engine process: it starts, refuses, answers and dies as its options tell it to."""

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
    """Answers with the tokens 3, 4, 5, … and the second half of them drafted; `fake` in the options is what goes wrong.
    """
    wrong = options.get("fake", "")
    if wrong in START and (wrong == "memory" or "speculative_config" in options):
        return pipe.send(("failed", *START[wrong]))
    if wrong == "start":
        os._exit(7)
    asked = options.get("speculative_config", {}).get("method")
    taken = {"method": "medusa" if wrong == "another" else asked}
    pipe.send(("ready", FACTS | taken | {"pid": os.getpid(), "given": sorted(map(str, options))}))
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


def reply(most: int, kind: str) -> Reply:
    """`most` tokens, one in the first step and all others in a second one; a search tells no steps."""
    tokens = [3 + i % 100 for i in range(most)]
    if kind == "beam":
        return Reply(tokens, [most], [0.5], stop="ended")
    return Reply(tokens, [1, most - 1], [0.25, 0.5], [0, most], [0, most - 2], shared=2, stop="length")
