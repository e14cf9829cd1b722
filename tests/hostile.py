"""Programs that cheat, escape or attack the machine; none may pass `TESTS` or leave anything behind."""

from typing import NamedTuple

TESTS = "assert f(1) == 2\nassert f(2) == 3\nassert not f(3) == 5"


class Hostile(NamedTuple):
    """A program, and the protections of which one is needed to contain it (none: it is always contained)."""

    source: str
    protections: tuple[str, ...] = ()


def _libc(code: str) -> str:
    return f"import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n{code}\n"


def _forged(answer: str) -> str:
    """Return a program that answers every call of the tests with its own bytes."""
    return ("import os, pickle\n"
            "names = pickle.dumps({'f': b'\\x80\\x04K\\x00Q.'})\n"  # the object of number 0
            f"answer = {answer}\n"
            "for _ in range(9):\n"
            "  for n in range(3, 12):\n"
            "    try: os.write(n, (names if not _ else answer))\n"
            "    except OSError: pass\n"
            "import time\ntime.sleep(0.1)\nos._exit(0)")


NETWORK = ("namespaces", "seccomp")
# Without a file system of its own, what nobody may write (/tmp, /dev/shm) can be written.
FILES = ("landlock",)

PROGRAMS = {
    # early ends
    "os._exit": Hostile("import os\nos._exit(0)"),
    "os._exit when asked": Hostile("import os\ndef f(x): os._exit(0)"),
    "sys.exit": Hostile("import sys\nsys.exit(0)"),
    "SystemExit when asked": Hostile("def f(x): raise SystemExit(0)"),
    "KeyboardInterrupt": Hostile("def f(x): raise KeyboardInterrupt"),
    "atexit": Hostile("import atexit, os\natexit.register(os._exit, 0)\nraise SystemExit(0)"),
    "kills itself": Hostile("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
    "kills its group": Hostile("import os, signal\nos.killpg(0, signal.SIGKILL)"),
    "crash": Hostile("import ctypes\nctypes.string_at(0)"),
    "abort": Hostile("import os\nos.abort()"),
    # claims
    "prints passed": Hostile("print('passed', flush=True)\nimport sys\nsys.stderr.write('passed')"),
    "writes passed everywhere": Hostile(
        "import os\nfor n in range(64):\n  try: os.write(n, b'passed\\n')\n  except OSError: pass\nf = lambda x: None"),
    "closes everything": Hostile("import os\nos.closerange(0, 64)\nf = lambda x: x + 1"),
    "dups over everything": Hostile("import os\nfor n in range(1, 12): os.dup2(0, n)\nf = lambda x: x + 1"),
    "forged answers": Hostile(_forged("pickle.dumps(('value', True, []))")),
    "forged verdicts": Hostile(_forged("pickle.dumps('passed') + b'passed\\n'")),
    "forged code": Hostile(_forged("b'cposix\\nsystem\\n(S\"touch /tmp/MARKER\"\\ntR.'"), FILES),
    "forged code that writes the verdict": Hostile(_forged(
        "pickle.dumps(type('X', (), {'__reduce__': lambda s: (exec, ('import os\\nfor n in range(3, 64):\\n  try: '"
        "'os.write(n, b\\'passed\\\\n\\')\\n  except OSError: pass',))})())")),
    "forged change of a type": Hostile(_forged("b'cbuiltins\\nint\\n(N(dV__eq__\\ncbuiltins\\nbool\\nstb.'")),
    "forged change of a stand": Hostile(_forged("b'K\\x00Q(N(dV_number\\nK\\x01stb.'")),
    "forged call": Hostile(_forged("b'K\\x00QK\\x01\\x85R.'")),
    "bytes that are no pickle": Hostile(_forged("b'\\x80\\x05\\x95' + b'\\xff' * 99")),
    # objects that lie
    "equal to all": Hostile("class E:\n  __eq__ = lambda s, o: o != 5\n  __ne__ = lambda s, o: 0\nf = lambda x: E()"),
    "a number equal to all": Hostile("class E(int):\n  __eq__ = lambda s, o: o != 5\n  __hash__ = int.__hash__\n"
                                     "f = lambda x: E(7)"),
    "a list that lies": Hostile("class E(list):\n  __eq__ = lambda s, o: o != 5\nf = lambda x: [E()]"),
    # changes to Python
    "patched AssertionError": Hostile(
        "import builtins\nclass A(Exception): pass\nbuiltins.AssertionError = A\nf = lambda x: None"),
    "patched builtins": Hostile(
        "import builtins\nfor name in ('all', 'any', 'len', 'isinstance', 'abs'):\n"
        "  setattr(builtins, name, lambda *_: True)\n  globals()[name] = lambda *_: True\nf = lambda x: None"),
    "patched exec and compile": Hostile(
        "import builtins\nbuiltins.exec = builtins.compile = lambda *_, **__: None\nf = lambda x: None"),
    "patched os and pickle": Hostile(
        "import os, pickle, io\nos._exit = lambda n: None\npickle.Pickler.dump = lambda *_: None\nf = lambda x: None"),
    "its own check": Hostile("def check(f): pass\nassert_ = None\nf = lambda x: None"),
    "settrace": Hostile(
        "import sys\ndef jump(frame, event, what):\n  try: frame.f_lineno += 1\n  except Exception: pass\n"
        "  return jump\ndef f(x):\n  sys.settrace(jump)\n  one = sys._getframe(1)\n"
        "  while one: one.f_trace = jump; one = one.f_back\nsys.settrace(jump)"),
    "frames": Hostile(
        "import sys\none = sys._getframe()\nwhile one:\n  for name, value in list(one.f_locals.items()):\n"
        "    try: value.write(b'passed\\n'); value.flush()\n    except BaseException: pass\n  one = one.f_back\n"
        "f = lambda x: None"),
    "gc": Hostile(
        "import gc\nfor one in gc.get_objects():\n  try:\n    if type(one).__name__ == 'Judge': one.say('passed')\n"
        "    if hasattr(one, 'write'): one.write(b'passed\\n'); one.flush()\n  except BaseException: pass\n"
        "f = lambda x: None"),
    "looks for the tests": Hostile(
        "import gc\nif any('f(1) ' + '==' in str(one)[:999] for one in gc.get_objects() if type(one) in (str, dict)):\n"
        "  f = lambda x: x + 1\ntext = open('job.json').read()\nf = lambda x: x + 1"),
    "signal handlers": Hostile(
        "import signal\nsignal.signal(signal.SIGALRM, lambda *_: 1 / 0)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n"
        "f = lambda x: None"),
    # never ends
    "endless loop": Hostile("while True: pass"),
    "endless when asked": Hostile("def f(x):\n  while True: pass"),
    "sleep": Hostile("import time\ntime.sleep(600)"),
    "catches all": Hostile("while True:\n  try:\n    while True: pass\n  except BaseException: pass"),
    "ignores signals": Hostile(
        "import signal\nfor n in {*range(1, 32)} - {9, 19}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass"),
    "stops itself": Hostile("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)"),
    "endless answer": Hostile("import itertools\nclass L(list):\n  __iter__ = lambda s: itertools.count()\n"
                              "f = lambda x: L()"),
    "slow in C": Hostile("import re\nre.match('(a+)+$', 'a' * 40 + 'b')"),
    # takes much
    "memory": Hostile("x = []\nwhile True: x.append(bytearray(64 << 20))"),
    "deep recursion": Hostile("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)\nf(1)"),
    "deep answer": Hostile("def f(x):\n  y = []\n  for _ in range(100000): y = [y]\n  return y"),
    "huge answer": Hostile("def f(x): return 'x' * (900 << 20)"),
    "output flood": Hostile("while True: print('x' * 100000)"),
    "flood of the pipe": Hostile(
        "import os\nwhile True:\n  for n in range(3, 12):\n    try: os.write(n, bytes(65536))\n"
        "    except OSError: pass"),
    "a huge file": Hostile("f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20))"),
    "many files": Hostile("n = 0\nwhile True:\n  n += 1\n  open(str(n), 'w').close()"),
    "holds files open": Hostile("files = [open('f%d' % n, 'w') for n in range(1000)]"),
    "a folder that cannot be removed": Hostile(
        "import os\nos.makedirs('a/b')\nos.chmod('a/b', 0)\nos.chmod('a', 0)\n1 / 0"),
    # other processes
    "fork bomb": Hostile("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"),
    "fork returns twice": Hostile("import os\nif os.fork() == 0: f = lambda x: x + 1\nelse: os._exit(0)"),
    "daemon": Hostile("import os, time\nif os.fork():\n  os._exit(0)\nos.setsid()\nif os.fork():\n  os._exit(0)\n"
                      "while True: time.sleep(1)"),
    "clone behind Python's back": Hostile(
        _libc("pid = libc.syscall({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 17, 0, 0, 0, 0)\n"
              "if pid < 0: raise OSError\nwhile True: pass")),
    "threads": Hostile("import threading\ndef run():\n  while True: pass\n"
                       "for _ in range(9): threading.Thread(target=run).start()"),
    "a new session": Hostile(
        _libc("try: os.setsid()\nexcept OSError: pass\nlibc.prctl(1, 0)\nwhile True: pass")),
    "subprocess": Hostile("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'sleep 600 &'])"),
    "exec": Hostile("import os\nos.execv('/bin/sh', ['sh', '-c', 'echo passed >&3; sleep 600'])",
                    ("seccomp", "landlock")),
    "multiprocessing": Hostile("import multiprocessing\nmultiprocessing.Process(target=print).start()"),
    "kills all": Hostile("import os, signal\nos.kill(-1, signal.SIGKILL)\nwhile True: pass", NETWORK),
    "kills its parent": Hostile("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nwhile True: pass"),
    "reads the judge's memory": Hostile("import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b').write(b'x')"),
    "takes the judge's files": Hostile(
        "import os\nfor p in range(os.getppid() - 3, os.getppid() + 1):\n  for n in range(3, 20):\n"
        "    try: open(f'/proc/{p}/fd/{n}', 'wb', 0).write(b'passed\\n')\n"
        "    except OSError: pass\nf = lambda x: None"),
    "ptrace": Hostile(_libc("if libc.ptrace(16, os.getppid(), 0, 0) < 0: raise OSError\nf = lambda x: x + 1")),
    # the rest of the machine
    "a file outside": Hostile("open('/tmp/MARKER', 'w').write('x')\nf = lambda x: None", FILES),
    "a file beside": Hostile("open('../MARKER', 'w').write('x')\nf = lambda x: None", FILES),
    "a link outside": Hostile("import os\nos.symlink('/tmp/MARKER', 'x')\nopen('x', 'w').write('x')", FILES),
    "reads the machine's secrets": Hostile("open('/etc/shadow').read()\nf = lambda x: x + 1", FILES),
    "POSIX shared memory": Hostile("open('/dev/shm/MARKER', 'w').write('x')", FILES),
    "System V shared memory": Hostile(_libc("if libc.shmget(KEY, 4096, 0o1600) < 0: raise OSError"), NETWORK),
    "System V semaphores": Hostile(_libc("if libc.semget(KEY, 1, 0o1600) < 0: raise OSError"), NETWORK),
    "a connection": Hostile("import socket\nsocket.create_connection(('127.0.0.1', PORT)).send(b'x')"),
    "a connection from C": Hostile(_libc(
        "import struct\ns = libc.socket(2, 1, 0)\naddress = struct.pack('=HHI8x', 2, int.from_bytes((PORT).to_bytes(2, "
        "'big'), 'little'), 0x0100007f)\nif s < 0 or libc.connect(s, address, 16) < 0: raise OSError"), NETWORK),
    "a datagram": Hostile("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', "
                          "('127.0.0.1', PORT))"),
    "a server": Hostile("import socket\nsocket.create_server(('127.0.0.1', 0))\nwhile True: pass"),
    "an abstract socket": Hostile("import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('\\0MARKER')\ns.listen()\n"
                                  "while True: pass"),
}
