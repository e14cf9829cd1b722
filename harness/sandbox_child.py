"""The process in which `harness.sandbox` runs one program; it imports nothing of the project.

Arguments: the pipe that holds the token, the pipe for the verdict, seconds of processor time, MiB of address space.
The verdict pipe gets the level of isolation, then the token or the reason why the program failed, one a line.
"""

import ctypes
import os
import resource
import signal
import sys

NOBODY = 65534
NAMESPACES = 0x20000000 | 0x40000000 | 0x08000000  # process ids, network, IPC (linux/sched.h)
USER_NAMESPACE = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS = 1, 8  # linux/prctl.h
CAPABILITY_VERSION, DAC_READ_SEARCH = 0x20080522, 1 << 2  # linux/capability.h
MIB = 1 << 20
LIBC = ctypes.CDLL(None)


def main() -> None:
    """Give up rights, run the program, report, and leave without running anything it left behind."""
    token, verdict, cpu_seconds, memory_mb = map(int, sys.argv[1:])
    read, write, leave = os.read, os.write, os._exit  # the program may replace those of the module
    with open("program.py", encoding="utf-8", newline="") as file:
        source = file.read()
    level = b"namespaces" if leave_namespaces() else b"limits"
    drop_root()
    if level == b"namespaces":
        enter_process_tree((token, verdict))
    die_with_parent()
    set_limits(cpu_seconds, memory_mb)
    sys.argv = ["program.py"]
    sys.modules["__main__"] = type(sys)("__main__")
    write(verdict, level + b"\n")
    try:
        exec(compile(source, "program.py", "exec"), {})
    except BaseException as error:
        write(verdict, describe(error).encode("utf-8", "replace") + b"\n")
        leave(1)
    write(verdict, read(token, 64) + b"\n")
    leave(0)


def leave_namespaces() -> bool:
    """Leave the network and the processes of the machine behind, where the kernel allows it."""
    flags = NAMESPACES if os.getuid() == 0 else NAMESPACES | USER_NAMESPACE
    return hasattr(LIBC, "unshare") and LIBC.unshare(flags) == 0


def drop_root() -> None:
    """As root, become nobody: root may write anywhere, and limits on processes do not bind it.

    Where nobody cannot read the standard library (an interpreter in root's home), the right to read is kept.
    """
    if os.getuid() != 0 or not hasattr(LIBC, "capset"):
        return
    try:
        os.chown(".", NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setuid(NOBODY)
    except OSError:  # a container that knows no such user
        return
    kept = 0 if os.access(os.__file__, os.R_OK) else DAC_READ_SEARCH
    rights = (kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable; twice 32 bits
    if LIBC.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)(*rights)) != 0:
        raise OSError("the rights of root cannot be given up")


def enter_process_tree(pipes: tuple[int, ...]) -> None:
    """Return in a grandchild: the child is the first process of the new tree, whose end takes all others along."""
    for _ in range(2):
        die_with_parent()
        pid = os.fork()
        if pid:
            for pipe in pipes:
                os.close(pipe)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def set_limits(cpu_seconds: int, memory_mb: int) -> None:
    """Bound processor time, memory, files and processes; a limit that the system does not know is left out."""
    wanted = {"CPU": cpu_seconds, "AS": memory_mb * MIB, "FSIZE": 16 * MIB, "NOFILE": 64, "NPROC": 0, "CORE": 0}
    for name, most in wanted.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
        except (AttributeError, ValueError, OSError):
            continue


def describe(error: BaseException) -> str:
    """One short line: the type of the error, its text, and the last line of the program that it passed."""
    try:
        line, step = 0, error.__traceback__
        while step:
            line = step.tb_lineno if step.tb_frame.f_code.co_filename == "program.py" else line
            step = step.tb_next
        text = " ".join(str(error).split())[:300]
        return f"{type(error).__name__}{': ' if text else ''}{text}" + (f" (line {line})" if line else "")
    except BaseException:
        return "an error that cannot be described"


if __name__ == "__main__":
    main()
