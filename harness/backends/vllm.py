"""A backend that runs vLLM's own decoding, each engine in a separate process.

Every speculative configuration is an engine of its own. Where memory allows all are kept ready, so that strategies are
still run in turn; otherwise one after the other, which the manifest says.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from harness import nano
from harness.backends.backend import BackendLost, Generated
from harness.backends.external import ExternalBackend, GenerationRequest
from harness.backends.vllm_mend import SWITCH
from harness.backends.vllm_options import COMMANDS, MAX_BEAMS, TESTED, call, package
from harness.backends.vllm_worker import Reply, Text, serve
from harness.engine.cache import free_bytes
from harness.errors import Unsupported, UserError
from harness.models.loading import Model
from harness.plugins.native import NativeCall
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Strategy
from harness.store.config import RunConfig, named_value
from harness.store.schema import Steps

PROCESS = 1 << 30  # bytes of an engine's process beside weights and cache
USUAL = ("draft_model", "ngram", "suffix")
USUAL_LENGTH = 1024  # tokens per sequence for which the cache has room, beside one sequence of maximum length
MORE = 4           # sequences that it has room for beyond the batch size: beams
LEAST = 64 << 20   # bytes of the smallest cache
PATIENCE = 20      # seconds in which an engine must end
WAIT = 600         # seconds in which an engine must start
LOST = ("The vLLM engine for {what} has ended in mid-run ({why}); what was finished is kept, and the same command "
        "resumes.")


def connect(config: RunConfig, target: Model, draft: Model | None) -> "Vllm":
    """Prepare vLLM for a run; raises `UserError` when it is not installed, or cannot take the device."""
    installed = package()
    if installed is None:
        raise UserError(f"--backend vllm needs vLLM, which is not installed: {COMMANDS['vllm']}.")
    if config.device not in ("cpu", "cuda", "cuda:0"):
        raise UserError(f"vLLM uses the first visible card: set CUDA_VISIBLE_DEVICES in place of --device "
                        f"{config.device}.")
    return Vllm(config, target, draft, installed)


class Worker:
    """A process with one engine."""

    def __init__(self, label: str, options: Mapping[str, Any], config: RunConfig, threads: int) -> None:
        self.label, self.log = label, Path(tempfile.mkstemp(prefix="decodebench-vllm-", suffix=".log")[1])
        context = get_context("spawn")
        self.pipe, worker_end = context.Pipe()
        self.process = context.Process(target=serve, daemon=True,
                                       args=(worker_end, dict(options), config.plugins, threads, str(self.log)))
        self.process.start()
        worker_end.close()

    def started(self) -> Mapping[str, Any]:
        """Return the engine's description of itself; raises `Unsupported` with the reason if it does not start."""
        if not self.pipe.poll(WAIT):
            self.close()
            raise Unsupported(f"vLLM did not start within {WAIT} s")
        try:
            kind, *content = self.pipe.recv()
        except (EOFError, OSError):
            why = self._end()
            self.close()
            raise Unsupported(f"vLLM ended while it started ({why})") from None
        if kind == "failed":
            self.close()
            raise Unsupported(reason(*content))
        facts: Mapping[str, Any] = content[0]
        return facts

    def ask(self, *job: Any) -> list[Reply]:
        """Run a job; raises `BackendLost` if the engine has ended, `RuntimeError` if the job failed."""
        try:
            self.pipe.send(job)
            kind, *content = self.pipe.recv()
        except (EOFError, OSError):
            raise BackendLost(LOST.format(what=self.label, why=self._end())) from None
        if kind == "wrong":
            raise RuntimeError(reason(*content))
        replies: list[Reply] = content[0]
        return replies

    def _end(self) -> str:
        self.process.join(5)
        code = self.process.exitcode
        return f"killed by signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process, gracefully if it does so in time, so that it releases shared resources."""
        self.pipe.close()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.log.unlink(missing_ok=True)


class Vllm(ExternalBackend):
    """Engines by their options, each started when a strategy first needs it."""

    def __init__(self, config: RunConfig, target: Model, draft: Model | None, installed: tuple[str, str]) -> None:
        self.config, self.target, self.draft, self.package = config, target, draft, installed
        self.options = engine_options(config, target, draft)
        self.context = int(self.options["max_model_len"])
        self.workers, self.engines = dict[str, Worker](), dict[str, Mapping[str, Any]]()
        self.calls = dict[str, tuple[str, NativeCall]]()
        try:
            self._known(self.options.get("speculative_config") or {})
        except Unsupported as refused:
            raise UserError(f"{refused}.") from None
        self.side_by_side = self._room()

    @property
    def facts(self) -> Mapping[str, Any]:
        """Return the version, and the description and strategies of each engine."""
        return {"name": "vllm", "package": self.package[0], "version": self.package[1],
                "side_by_side": self.side_by_side,
                "engines": {key: dict(facts) for key, facts in self.engines.items()},
                "strategies": {spec: {"engine": key, "sampling": dict(how.sampling), "beam": dict(how.beam or {})}
                               for spec, (key, how) in self.calls.items()}}

    @property
    def warnings(self) -> list[str]:
        """Return the set-up in one line, and notes on its effects."""
        notes = [f"decoded by {self.package[0]} {self.package[1]}, {'eager' if one['eager'] else 'compiled'}, prefix "
                 f"caching {'on' if one['prefix_caching'] else 'off'}" for one in [*self.engines.values()][:1]]
        if not self.package[1].startswith(f"{TESTED}."):
            notes.append(f"vLLM {self.package[1]} is not a version that was tested ({TESTED})")
        if not self.side_by_side:
            notes.append("vLLM's engines do not fit side by side: strategies ran one after the other")
        faults = {fault: mended for facts in self.engines.values() for fault, mended in facts["mended"].items()}
        notes += [f"vLLM's fault '{fault}' is {'mended' if mended else f'left in ({SWITCH}=off)'}"
                  for fault, mended in faults.items()]
        if any(how.beam for _, how in self.calls.values()):
            notes.append("vLLM's beam search goes on to the token limit, and its answers are cut at stop strings "
                         "afterwards")
        return notes

    def refusal(self, strategy: Strategy) -> str | None:
        """Start the engine of a strategy, or return why that is not possible."""
        try:
            how = call(strategy, self._draft())
            key = _key(how)
            self._check(how)
        except Unsupported as refused:
            return str(refused)
        try:
            self._worker(key, how, strategy.spec())
        except Unsupported as refused:
            if how.speculative is None:
                raise UserError(f"vLLM cannot run '{self.target.name}': {refused}.") from None
            return str(refused)
        self.calls[strategy.spec()] = key, how
        return None

    def generate(self, strategy: Strategy, requests: Sequence[GenerationRequest],
                 batch_size: int | None) -> list[Generated | Exception]:
        """Decode in one job of the strategy's engine, at most as many sequences at a time as the engine allows."""
        if strategy.spec() not in self.calls and (why := self.refusal(strategy)):  # a task has set its temperature
            return [Unsupported(why)] * len(requests)
        key, how = self.calls[strategy.spec()]
        texts = [Text(one.prompt, one.max_tokens, one.seed, tuple(sorted(one.eos)), one.stops, one.sample)
                 for one in requests]
        worker = self._worker(key, how, strategy.spec())
        extra = {"extra_args": {"decodebench": strategy.spec()}} if how.warps else {}
        job = ("beam", texts, dict(how.beam)) if how.beam else ("sample", texts, {**how.sampling, **extra})
        try:
            replies = worker.ask(*job, min(batch_size or len(texts), int(self.options["max_num_seqs"])))
        except RuntimeError as error:
            return [error.with_traceback(None)] * len(texts)  # the traceback is of no use
        return [generated(reply) for reply in replies]

    def close(self) -> None:
        """End all engines."""
        for worker in self.workers.values():
            worker.pipe.close()
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()

    def _draft(self) -> str | None:
        return place(self.draft.name) if self.draft else None

    def _check(self, how: NativeCall) -> None:
        """Raise `Unsupported` if the installed vLLM would ignore an option."""
        self._known(how.speculative or {})
        if (how.speculative or self.options.get("speculative_config")) and (how.warps or "min_p" in how.sampling):
            raise Unsupported("vLLM warps no logits, and leaves out min_p, while it speculates")

    def _known(self, speculative: Mapping[str, Any]) -> None:
        """Raise `Unsupported` for a speculative method that the installed vLLM lacks or mistakes for another."""
        method = speculative.get("method")
        if method not in (None, *USUAL) and method not in (known := methods()):
            raise Unsupported(f"vLLM {self.package[1]} has no speculative method '{method}'; it has "
                              f"{', '.join(known)}")
        if speculative.get("rejection_sample_method", "standard") != "standard":
            raise Unsupported("vLLM ignores rejection_sample_method and verifies token by token: leave it out")

    def _worker(self, key: str, how: NativeCall, spec: str) -> Worker:
        """Return the engine with these options; it replaces another if only one fits in memory."""
        if key in self.workers:
            return self.workers[key]
        if not self.side_by_side:
            self.close()
        options = dict(self.options)
        if how.speculative:
            options["speculative_config"] = dict(how.speculative)
        if options.get("speculative_config"):
            options["per_request_spec_decode_metrics"] = "detailed"
        if how.warps:
            options["logits_processors"] = ["harness.backends.vllm_logits:Warps"]
        worker = Worker(spec, options, self.config, threads(self.config))
        facts = worker.started()
        method = (options.get("speculative_config") or {}).get("method")
        if method not in (None, facts["method"]):
            worker.close()
            raise Unsupported(f"vLLM runs the drafting model with method '{facts['method']}', not '{method}'")
        self.engines[key] = {**facts, "speculative": options.get("speculative_config")}
        self.workers[key] = worker
        return worker

    def _room(self) -> bool:
        """Return whether the engines of all strategies of the run fit in free memory together."""
        keys = set[str]()
        for spec in {self.config.baseline, *self.config.strategies}:
            try:
                how = call(STRATEGIES.build(spec), self._draft())
            except Unsupported:
                continue
            keys.add(_key(how))
        weights = sum(model.parameters * model.engine.model.dtype.itemsize
                      for model in (self.target, self.draft) if model)
        size = int(self.options["kv_cache_memory_bytes"]) + weights + PROCESS
        return bool(len(keys) * size <= free_bytes(self.config.device))


def _key(how: NativeCall) -> str:
    """Return the options that distinguish the engines of a run."""
    if how.speculative:
        return json.dumps(dict(how.speculative))
    return "with our logits processor" if how.warps else "plain"


def engine_options(config: RunConfig, target: Model, draft: Model | None) -> dict[str, Any]:
    """Return the options of all engines of a run, those of `--engine` last."""
    longest = min(model.engine.max_len for model in (target, draft) if model)
    slot = sum(model.engine.cache.slot_bytes() for model in (target, draft) if model)
    wanted = slot * (longest + USUAL_LENGTH * (config.concurrency + MORE)) * 5 // 4
    room = int(config.cache_gb * 1e9) if config.cache_gb else max(LEAST, wanted)
    options = {"model": place(target.name), "tokenizer": place(config.tokenizer or target.name), "dtype": config.dtype,
               "seed": config.seed, "max_model_len": longest, "max_num_seqs": max(config.concurrency, 8),
               "enforce_eager": not config.compile and config.device == "cpu", "kv_cache_memory_bytes": room,
               "enable_prefix_caching": config.share_prefix, "disable_log_stats": False, "max_logprobs": 2 * MAX_BEAMS,
               "gpu_memory_utilization": 0.1}
    return options | dict(named_value("--engine", text) for text in config.engine)


def generated(reply: Reply) -> Generated | Exception:
    """Convert a worker's reply to an answer or an error."""
    if reply.error:
        return RuntimeError(reply.error)
    steps = Steps(tokens=reply.counts, seconds=reply.seconds, drafted=reply.drafted, accepted=reply.accepted)
    return Generated(reply.tokens, steps, reply.stop, shared=reply.shared)  # type: ignore[arg-type]


def place(name: str) -> str:
    """Return the folder or hub id of a model; raises `UserError` for one that is no folder."""
    if name == nano.LONG:
        raise UserError("nano-long is nano with a change of its weights, which vLLM cannot add: leave --backend out, "
                        "or give another model.")
    if name in nano.PACKED or Path(name, nano.PACKED_FILE).is_file():
        raise UserError(f"{name} has weights in a form that vLLM cannot read: leave --backend out, or give another "
                        "model.")
    return str(nano.weights(name)) if name in nano.NAMES else name


def threads(config: RunConfig) -> int:
    """Return the threads of an engine: as configured, else as many as the reference uses."""
    return config.threads or torch.get_num_threads()


def methods() -> list[str]:
    """Return the speculative methods of the installed vLLM, except those for one model family."""
    from typing import get_args

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.config.speculative import SpeculativeMethod

    def flat(kind: Any) -> list[str]:
        return [kind] if isinstance(kind, str) else [name for inner in get_args(kind) for name in flat(inner)]
    return sorted(name for name in flat(SpeculativeMethod) if not name.endswith("_mtp"))


def reason(kind: str, text: str) -> str:
    """Return one sentence for an error of vLLM: lack of memory, else the first line of the cause."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and "validation error" not in line]
    first = next((line for line in lines if " " in line), kind).partition(". ")[0].rstrip(".")
    if any(sign in text.lower() for sign in ("memory", "kv cache", "killed")):
        return (f"it does not fit into memory ({first[:160]}); lower the cache with --cache-gb, or the context with "
                "--engine max_model_len=N")
    return first[:240]
