"""Programs that try to get out, to stay, or to take the machine with them. Each prints ESCAPED where it succeeds.

`{port}` is a server of the test on the host, `{victim}` a file of the host that must stay as it is.
"""

_LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"

HOSTILE = {
    # processes and threads
    "fork bomb": "import os\nwhile True:\n    os.fork()\n    print('ESCAPED', flush=True)",
    "fork bomb by multiprocessing": (
        "import multiprocessing as m\nfor _ in range(100):\n    m.Process(target=print, args=('ESCAPED',)).start()"
    ),
    "shell fork bomb": "import os\nos.execv('/bin/sh', ['sh', '-c', 'b() {{ b | b & }}; b; echo ESCAPED'])",
    "thread bomb": (
        "import threading, time\nfor _ in range(100000):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print('ESCAPED')"
    ),
    "daemon by double fork": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        time.sleep(60)\nprint('ESCAPED')"
    ),
    "raw clone without thread flag": _LIBC + "if libc.syscall(56, 17, 0, 0, 0, 0) >= 0: print('ESCAPED')",
    "vfork and exec": "import subprocess\nsubprocess.Popen(['/bin/sleep', '60'])\nprint('ESCAPED')",
    # time
    "endless loop": "while True: pass",
    "endless sleep": "import time\ntime.sleep(10**6)",
    "deaf to signals": (
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: pass"
    ),
    "one endless operation in C": "x = 7 ** 10 ** 9\nprint('ESCAPED')",
    "another program that sleeps": "import os\nos.execv('/bin/sleep', ['sleep', '1000000'])",
    "waits for input that never comes": "import os\nr, w = os.pipe()\nos.read(r, 1)",
    "raises its own limits": (
        "import resource as r\nfor k in (r.RLIMIT_CPU, r.RLIMIT_AS, r.RLIMIT_FSIZE):\n"
        "    try:\n        r.setrlimit(k, (r.RLIM_INFINITY, r.RLIM_INFINITY))\n        print('ESCAPED')\n"
        "    except (ValueError, OSError): pass"
    ),
    # memory
    "ten gigabytes at once": "x = bytearray(10 * 2**30)\nprint('ESCAPED')",
    "ten gigabytes bit by bit": "x = []\nwhile len(x) < 10240: x.append(bytearray(2**20))\nprint('ESCAPED')",
    "ten gigabytes mapped": "import mmap\nx = mmap.mmap(-1, 10 * 2**30)\nprint('ESCAPED')",
    "memory files": _LIBC + "if libc.syscall(319, b'x', 0) >= 0: print('ESCAPED')",
    "shared memory": _LIBC + "if libc.shmget(0, 2**30, 0o1600) >= 0: print('ESCAPED')",
    "endless recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()\nf()",
    # files
    "deletes a file of the host": "import os\nos.remove({victim!r})\nprint('ESCAPED')",
    "deletes everything": "import shutil\nshutil.rmtree('/', ignore_errors=True)",
    "overwrites its interpreter": "import sys\nopen(sys.executable, 'r+b').write(b'x')\nprint('ESCAPED')",
    "symbolic link out of its folder": (
        "import os\nos.symlink({victim!r}, 'link')\nopen('link', 'w').write('x')\nprint('ESCAPED')"
    ),
    "hard link out of its folder": "import os\nos.link('/program.py', 'link')\nprint('ESCAPED')",
    "climbs up with dots": "open('../' * 20 + {victim!r}, 'w').write('x')\nprint('ESCAPED')",
    "fills the disk": (
        "n = 0\nwhile n < 1000:\n    open(f'f{{n}}', 'wb').write(b'x' * 500_000)\n    n += 1\nprint('ESCAPED')"
    ),
    "a million empty files": "for n in range(10**6): open(f'f{{n}}', 'w').close()\nprint('ESCAPED')",
    "one huge file": "f = open('f', 'wb')\nfor _ in range(100): f.write(b'x' * 2**20)\nprint('ESCAPED')",
    "endless output": "while True: print('x' * 10000)",
    "opens files without end": "x = [open('/dev/null') for _ in range(100000)]\nprint('ESCAPED')",
    "makes a device": "import os, stat\nos.mknod('disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\nprint('ESCAPED')",
    "reads the passwords": "print(open('/etc/passwd').read(), 'ESCAPED')",
    "reads the environment of others": "print(open('/proc/1/environ').read(), 'ESCAPED')",
    # network
    "connects to the host": (
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1).send(b'x')\nprint('ESCAPED')"
    ),
    "fetches a page": (
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)\nprint('ESCAPED')"
    ),
    "sends a datagram": (
        "import socket\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))\nprint('ESCAPED')"
    ),
    "abstract unix socket": "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0e2h')\nprint('ESCAPED')",
    "listens": "import socket\nsocket.socket().bind(('0.0.0.0', 0))\nprint('ESCAPED')",
    # privileges
    "becomes root": "import os\nos.setuid(0)\nprint('ESCAPED')",
    "new user namespace": _LIBC + "if libc.unshare(0x10000000) == 0: print('ESCAPED')",
    "mounts": _LIBC + "if libc.mount(b'none', b'/work', b'tmpfs', 0, None) == 0: print('ESCAPED')",
    "second root": "import os\nos.mkdir('d')\nos.chroot('d')\nprint('ESCAPED')",
    "traces process 1": _LIBC + "if libc.ptrace(16, 1, 0, 0) == 0: print('ESCAPED')",
    "kills everybody": "import os\nos.kill(1, 9)\nos.kill(-1, 9)",
    "writes into foreign descriptors": (
        'import os\nfor fd in range(3, 200):\n    try:\n        os.write(fd, b\'{{"code": 0}}\\n'
        "')\n        print('ESCAPED')\n"
        "    except OSError: pass"
    ),
    "kernel interfaces": (
        _LIBC + "for call in (321, 298, 323, 425, 250, 304, 435):\n"
        "    if libc.syscall(call, 0, 0, 0, 0, 0) >= 0: print('ESCAPED')"
    ),
}
