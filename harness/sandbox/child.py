"""The first process of `harness.sandbox`: builds the walls, splits into program and judge, and imports no package.

Arguments: the pipe for the verdict, seconds of processor time, MiB of address space, the walls to build where the
kernel allows them. The pipe gets the walls that stand and the program's process id, then the verdict, a line each.
"""

import contextlib
import json
import os
import signal
import sys

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than everything here
if TYPE_CHECKING:
    from harness.sandbox import remote, walls
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import remote
    import walls
    sys.path.pop(0)


def main() -> None:
    """Give up rights, start the program and judge it."""
    verdict, cpu_seconds, memory_mb = map(int, sys.argv[1:4])
    wanted = sys.argv[4].split(",")
    spaces = "namespaces" in wanted and walls.leave_namespaces()
    walls.drop_root()
    walls.hide_memory()
    split_off()
    walls.die_with_parent()
    to_program, to_judge = os.pipe(), os.pipe()
    program = os.fork()
    if not program:
        for pipe in (verdict, to_program[1], to_judge[0]):
            os.close(pipe)
        walls.die_with_parent()
        enclose(wanted, cpu_seconds, memory_mb, [])
        forget()
        remote.serve(os.fdopen(to_program[0], "rb"), os.fdopen(to_judge[1], "wb"))
    for pipe in (to_program[0], to_judge[1]):
        os.close(pipe)
    with open("job.json", encoding="ascii") as file:
        job = json.load(file)
    os.unlink("job.json")
    stand = enclose(wanted, cpu_seconds, memory_mb, [job["path"]])
    sys.path.append(job["path"])
    judge = remote.Judge(os.fdopen(to_judge[0], "rb"), os.fdopen(to_program[1], "wb"), verdict)
    judge.say(" ".join([*(["namespaces"] if spaces else []), *stand, str(program)]))
    judge.run(job)


def split_off() -> None:
    """Return in a new process, the first of its tree where there are namespaces; end it and reap all of them here."""
    walls.die_with_parent()
    walls.adopt_orphans()
    pid = os.fork()
    if not pid:
        return

    def end(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may end by itself just now
            os.kill(pid, signal.SIGKILL)
    signal.signal(signal.SIGTERM, end)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    os._exit(0)


def enclose(wanted: list[str], cpu_seconds: int, memory_mb: int, readable: list[str]) -> list[str]:
    """Build the walls round this process; what stands."""
    walls.set_limits(cpu_seconds, memory_mb)
    filtered = "seccomp" in wanted and walls.filter_calls()
    closed = "landlock" in wanted and walls.close_files(readable)
    if not filtered:
        walls.hide_sockets()
    return [*["seccomp"] * filtered, *["landlock"] * closed, "limits"]


def forget() -> None:
    """Leave nothing of this file where a program would find it by accident."""
    sys.argv = ["program.py"]
    sys.modules["__main__"] = type(sys)("__main__")
    for name in ("remote", "walls", "json"):
        sys.modules.pop(name, None)


if __name__ == "__main__":
    main()
