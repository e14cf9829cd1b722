"""The kind of machine that a run was timed on: times of two kinds are never joined."""

from harness.store.schema import Manifest, Record

NAN = float("nan")
UNIMPORTANT = ("memory_gb",)  # equal machines differ in it by some megabytes


def machine_of(manifest: Manifest) -> str:
    """Return what the speed of a run depends on besides its settings, as text: hardware, threads and torch."""
    about = manifest.environment
    hardware = {name: value for name, value in dict(about.get("hardware") or {}).items()
                if value is not None and name not in UNIMPORTANT}
    torch = dict(about.get("packages") or {}).get("torch")
    spread = dict(about.get("layers") or {})
    facts = [*(f"{name} {value}" for name, value in hardware.items()), f"{about.get('threads')} threads",
             f"torch {torch}", *(f"layers of {model} on {devices}" for model, devices in spread.items())]
    return ", ".join(facts)


def continued(manifest: Manifest) -> str:
    """Return the note of a run that goes on, on a machine of another kind."""
    return ("Two kinds of machines: quality and counts are of all samples, times and speed only of those that were "
            f"decoded where the run began, not of those on: {machine_of(manifest)}.")


def without_times(record: Record) -> Record:
    """Return the record with unknown times (NaN) and memory."""
    turns = [turn.model_copy(update={"steps": turn.steps.model_copy(
        update={"seconds": [NAN] * len(turn.steps.seconds)})}) for turn in record.turns]
    return record.model_copy(update={"seconds": NAN, "peak_bytes": None, "turns": turns})
