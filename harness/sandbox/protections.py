"""Protections of Linux that isolate a process from the rest of the machine, called through the C library.

Sources: the manual pages namespaces(7), capabilities(7), seccomp(2), landlock(7), prctl(2), getrlimit(2), and the
kernel's own tables of call numbers.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys

NOBODY = 65534
NAMESPACES = 0x20000000 | 0x40000000 | 0x08000000  # process ids, network, IPC (linux/sched.h)
USER_NAMESPACE = 0x10000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 8, 22, 38
PR_SET_CHILD_SUBREAPER = 36
CAPABILITY_VERSION, DAC_READ_SEARCH = 0x20080522, 1 << 2  # linux/capability.h
MIB = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)

# Denied system calls: network, other processes, System V and POSIX memory and queues, rarely used kernel interfaces.
# Numbers of x86-64 and of 64-bit ARM; -1: does not exist.
DENIED = {
    "socket": (41, 198), "io_uring_setup": (425, 425), "fork": (57, -1), "vfork": (58, -1), "clone": (56, 220),
    "clone3": (435, 435), "execve": (59, 221), "execveat": (322, 281), "setpgid": (109, 154), "setsid": (112, 157),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140),
    "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "ioprio_set": (251, 30), "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282),
}
OWN_ONLY = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "prlimit64": (302, 261)}
PRCTL = (157, 167)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
ALLOW, KILL, REFUSE, BUSY = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.EAGAIN
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06  # instructions of BPF
NUMBER, MACHINE, FIRST = 0, 4, 16  # where `struct seccomp_data` has the call, the machine, the first argument

# Landlock: file access rights by version, then the read rights among them.
RIGHTS = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF}
LATER_RIGHTS, READ = 0xFFFF, 0x4 | 0x8
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on all machines
FILE_RIGHTS = 0x1 | 0x2 | 0x4 | 0x4000
READABLE = ("/usr", "/lib", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom", "/dev/zero")


def leave_namespaces() -> bool:
    """Enter new network, process and IPC namespaces; returns False if the kernel does not allow it."""
    flags = NAMESPACES if os.getuid() == 0 else NAMESPACES | USER_NAMESPACE
    return hasattr(LIBC, "unshare") and LIBC.unshare(flags) == 0


def drop_root() -> None:
    """As root, become nobody, because root may write anywhere and is exempt from process limits.

    The right to read is kept if nobody cannot read the standard library (an interpreter in root's home).
    """
    if os.getuid() != 0 or not hasattr(LIBC, "capset"):
        return
    try:
        os.chown(".", NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setuid(NOBODY)
    except OSError:  # a container without this user
        return
    kept = 0 if os.access(os.__file__, os.R_OK) else DAC_READ_SEARCH
    rights = (kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable; twice 32 bits
    if LIBC.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)(*rights)) != 0:
        raise OSError("the rights of root cannot be given up")


def hide_memory() -> None:
    """Prevent processes of the same user from reading the memory of this process and its children."""
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of all descendants whose own parent ends."""
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def set_limits(cpu_seconds: int, memory_mb: int) -> None:
    """Limit CPU time, memory, files and processes; limits that the system does not support are skipped."""
    limits = {"CPU": cpu_seconds, "AS": memory_mb * MIB, "FSIZE": 16 * MIB, "NOFILE": 64, "NPROC": 0, "CORE": 0,
              "MEMLOCK": 0, "MSGQUEUE": 0, "SIGPENDING": 64}
    for name, limit in limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
        except (AttributeError, ValueError, OSError):
            continue


def hide_sockets() -> None:
    """Disable Python's sockets if the kernel has no better protection; C code can still reach the network."""
    import _socket

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "the network is not allowed")
    _socket.socket = _socket.SocketType = type("socket", (), {"__init__": refused})  # type: ignore[assignment, misc]


def filter_calls() -> bool:
    """Deny the calls of `DENIED`, and those of `OWN_ONLY` on other processes; False if seccomp is unavailable."""
    if os.uname().machine not in MACHINES or sys.maxsize < 2**32:
        return False
    code = b"".join(struct.pack("HBBI", *one) for one in _filter(*MACHINES[os.uname().machine], os.getpid()))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    return _no_new_rights() and LIBC.prctl(PR_SET_SECCOMP, 2, ctypes.c_char_p(program), 0, 0) == 0


def _filter(column: int, machine: int, me: int) -> list[tuple[int, int, int, int]]:
    """Return BPF instructions as (code, jump if true, jump if false, value)."""
    program = [(LOAD, 0, 0, MACHINE), (EQUAL, 1, 0, machine), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER),
               (AT_LEAST, 0, 1, 0x40000000), (RETURN, 0, 0, REFUSE)]  # the second table of x86-64
    for name, numbers in DENIED.items():
        if numbers[column] >= 0:
            answer = BUSY if name in ("fork", "vfork", "clone", "clone3") else REFUSE
            program += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, answer)]
    for name, numbers in OWN_ONLY.items():
        nobody = [(EQUAL, 1, 0, 0)] if name == "prlimit64" else []  # 0 is the caller there, and a whole group for kill
        program += [(EQUAL, 0, 4 + len(nobody), numbers[column]), (LOAD, 0, 0, FIRST),
                    (EQUAL, 1 + len(nobody), 0, me), *nobody, (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    program += [(EQUAL, 0, 4, PRCTL[column]), (LOAD, 0, 0, FIRST), (EQUAL, 1, 0, PR_SET_PDEATHSIG),
                (EQUAL, 0, 1, PR_SET_DUMPABLE), (RETURN, 0, 0, REFUSE)]
    return [*program, (RETURN, 0, 0, ALLOW)]


def close_files(readable: list[str]) -> bool:
    """Allow writing to this folder and reading the interpreter and `readable` only; False if there is no Landlock."""
    version = LIBC.syscall(CREATE_RULESET, None, 0, 1) if sys.platform == "linux" else -1
    if version < 1:
        return False
    rights = RIGHTS.get(version, LATER_RIGHTS)
    wanted = struct.pack("QQQ", rights, 0x3, 0x3)  # files; TCP both ways; abstract sockets and signals
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = LIBC.syscall(CREATE_RULESET, ctypes.c_char_p(wanted), size, 0)
    if rules < 0:
        return False
    allowed = {sys.base_prefix: READ, sys.prefix: READ, os.path.dirname(os.__file__): READ}
    allowed |= dict.fromkeys([*READABLE, *readable, *os.environ.get("LD_LIBRARY_PATH", "").split(":")], READ)
    for path, right in {**allowed, ".": rights, "/dev/null": 0x2 | 0x4}.items():
        _allow(rules, path, right & rights)
    done = _no_new_rights() and LIBC.syscall(RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return done


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH)
    except OSError:  # not on this machine
        return
    if not os.path.isdir(path):
        rights &= FILE_RIGHTS
    LIBC.syscall(ADD_RULE, rules, 1, ctypes.c_char_p(struct.pack("=Qi", rights, descriptor)), 0)
    os.close(descriptor)


def _no_new_rights() -> bool:
    return bool(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
