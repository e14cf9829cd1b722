"""The first process of `harness.sandbox`: sets up protections, forks into program and judge, imports no package.

Arguments: the pipe for the verdict, seconds of CPU time, MiB of address space, the protections to set up if the kernel
supports them. It writes a line with the active protections and the program's process id to the pipe, then the verdict.
"""

import contextlib
import json
import os
import signal
import sys

TYPE_CHECKING = False  # as in `typing`, whose import would take longer than everything here
if TYPE_CHECKING:
    from harness.sandbox import protections, remote
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import protections
    import remote
    sys.path.pop(0)


def main() -> None:
    """Drop privileges, start the program and judge it."""
    verdict, cpu_seconds, memory_mb = map(int, sys.argv[1:4])
    wanted = sys.argv[4].split(",")
    spaces = "namespaces" in wanted and protections.leave_namespaces()
    protections.drop_root()
    protections.hide_memory()
    split_off()
    protections.die_with_parent()
    to_program, to_judge = os.pipe(), os.pipe()
    program = os.fork()
    if not program:
        for pipe in (verdict, to_program[1], to_judge[0]):
            os.close(pipe)
        protections.die_with_parent()
        enclose(wanted, cpu_seconds, memory_mb, [])
        forget()
        remote.serve(os.fdopen(to_program[0], "rb"), os.fdopen(to_judge[1], "wb"))
    for pipe in (to_program[0], to_judge[1]):
        os.close(pipe)
    with open("job.json", encoding="ascii") as file:
        job = json.load(file)
    os.unlink("job.json")
    active = enclose(wanted, cpu_seconds, memory_mb, [job["path"]])
    sys.path.append(job["path"])
    judge = remote.Judge(os.fdopen(to_judge[0], "rb"), os.fdopen(to_program[1], "wb"), verdict)
    judge.say(" ".join([*(["namespaces"] if spaces else []), *active, str(program)]))
    judge.run(job)


def split_off() -> None:
    """Fork: return in the child (process 1 of a namespace, if any); the parent waits for it and all its children."""
    protections.die_with_parent()
    protections.adopt_orphans()
    pid = os.fork()
    if not pid:
        return

    def end(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it may have ended already
            os.kill(pid, signal.SIGKILL)
    signal.signal(signal.SIGTERM, end)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    os._exit(0)


def enclose(wanted: list[str], cpu_seconds: int, memory_mb: int, readable: list[str]) -> list[str]:
    """Set up the protections of this process; returns the active ones."""
    protections.set_limits(cpu_seconds, memory_mb)
    filtered = "seccomp" in wanted and protections.filter_calls()
    closed = "landlock" in wanted and protections.close_files(readable)
    if not filtered:
        protections.hide_sockets()
    return [*["seccomp"] * filtered, *["landlock"] * closed, "limits"]


def forget() -> None:
    """Remove the modules and arguments of this file from `sys`, so that the program does not see them."""
    sys.argv = ["program.py"]
    sys.modules["__main__"] = type(sys)("__main__")
    for name in ("remote", "protections", "json"):
        sys.modules.pop(name, None)


if __name__ == "__main__":
    main()
