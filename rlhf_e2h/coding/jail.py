"""The process that locks itself in and then becomes the program: `python -I -S jail.py SETTINGS_JSON`.

Three processes, so that nothing can outlive its limit:

    outer    waits; if it is killed, the kernel kills `init` (parent-death signal)
    init     process 1 of a new process namespace; kills the program on time, and when it ends itself, the kernel kills
             everything inside
    program  without privileges, under limits and the system-call filter

Namespaces: mount, process, network (without any interface, loopback is down), IPC, host name; a user namespace where
the caller is not root. The file system is a read-only tree with the interpreter, and one writable folder in memory.
Standard library only. The descriptor `report` gets JSON lines: that the program starts, how it ended, or what went
wrong before.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import seccomp

NEW_MOUNT, NEW_HOST, NEW_IPC, NEW_USER, NEW_PROCESS, NEW_NETWORK = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
DETACH, DEATH_SIGNAL = 2, 1
NOBODY = 65534
FOLDER = "/work"

libc = ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [text.encode() if text is not None else None for text in (source, target, kind)]
    call(f"mount {target}", libc.mount(*encoded, ctypes.c_ulong(flags), options.encode() if options else None))


def close_tree(place: str) -> None:
    """Read-only, with all mounts below."""
    attributes = struct.pack("QQQQ", 1 | 2 | 4, 0, 0, 0)  # MOUNT_ATTR_RDONLY, _NOSUID, _NODEV; linux/mount.h
    here, recursive = -100, 0x8000
    arguments = (here, place.encode(), recursive, attributes, ctypes.c_size_t(len(attributes)))
    call(f"read-only {place}", libc.syscall(seccomp.number("mount_setattr"), *arguments))


def enter_namespaces() -> None:
    """New namespaces for this process (the process namespace: for its children)."""
    uid, gid = os.getuid(), os.getgid()
    flags = NEW_MOUNT | NEW_HOST | NEW_IPC | NEW_PROCESS | NEW_NETWORK
    if uid != 0:
        flags |= NEW_USER
    call("unshare", libc.unshare(flags))
    if uid != 0:  # an ordinary user inside too, so that executing the program drops all capabilities
        for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {uid} 1"), ("gid_map", f"1000 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def build_root(root: str, settings: dict[str, Any]) -> None:
    """A tree with the interpreter, three devices and the program; read-only but for FOLDER."""
    mount("none", "/", None, RECURSIVE | PRIVATE)
    mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEVICES, "size=4m,nr_inodes=256,mode=755")
    for place in settings["visible"]:
        if os.path.islink(place):
            os.makedirs(os.path.dirname(root + place), exist_ok=True)
            os.symlink(os.readlink(place), root + place)
        elif os.path.isdir(place):
            os.makedirs(root + place)
            mount(place, root + place, None, BIND | RECURSIVE)
            close_tree(root + place)
    os.mkdir(root + "/dev")
    for device in ("null", "zero", "urandom"):
        open(f"{root}/dev/{device}", "w").close()
        mount(f"/dev/{device}", f"{root}/dev/{device}", None, BIND)
    with open(settings["program"], "rb") as source, open(root + "/program.py", "wb") as target:
        target.write(source.read())
    for name in (FOLDER, "/.old"):
        os.mkdir(root + name)
    size = settings["files_bytes"]
    mount("tmpfs", root + FOLDER, "tmpfs", NO_SUID | NO_DEVICES, f"size={size},nr_inodes=256,mode=777")
    call("pivot_root", libc.syscall(seccomp.number("pivot_root"), root.encode(), (root + "/.old").encode()))
    os.chdir(FOLDER)
    call("umount", libc.umount2(b"/.old", DETACH))
    mount("none", "/", None, BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)


def set_limits(settings: dict[str, Any]) -> None:
    limits = {
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_DATA: settings["memory_bytes"],
        resource.RLIMIT_CPU: settings["cpu_seconds"],
        resource.RLIMIT_FSIZE: settings["output_bytes"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def become_program(settings: dict[str, Any]) -> None:
    """Give up every privilege, then execute the program."""
    os.setsid()
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    set_limits(settings)
    seccomp.install(libc)
    os.execve(settings["python"], [settings["python"], "-I", "-B", "/program.py"], settings["environment"])


def report(settings: dict[str, Any], **facts: Any) -> None:
    os.write(settings["report"], json.dumps(facts).encode() + b"\n")


def init(settings: dict[str, Any]) -> int:
    """Process 1 inside: builds the tree, starts the program, reports how it ended."""
    call("prctl", libc.prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))
    build_root(settings["root"], settings)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    report(settings, started=True)
    program = os.fork()
    if program == 0:
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            become_program(settings)
        except BaseException as error:  # whatever it is: never run on with privileges
            report(settings, refused=f"{type(error).__name__}: {error}")
        os._exit(125)
    late, (status, usage) = wait_until(program, time.monotonic() + settings["wall_seconds"])
    code = os.waitstatus_to_exitcode(status)
    report(settings, code=code, late=late, cpu=usage.ru_utime + usage.ru_stime, memory=usage.ru_maxrss * 1024)
    return 0


def wait_until(program: int, deadline: float) -> tuple[bool, tuple[int, resource.struct_rusage]]:
    """Wait for a child; kill it at the deadline. Returns whether it was late, its status and its use."""
    while True:
        done, status, usage = os.wait4(program, os.WNOHANG)
        if done:
            return False, (status, usage)
        left = deadline - time.monotonic()
        if left <= 0:
            os.kill(program, signal.SIGKILL)
            return True, os.wait4(program, 0)[1:]
        signal.sigtimedwait([signal.SIGCHLD], left)


def main(settings: dict[str, Any]) -> int:
    try:
        os.set_inheritable(settings["report"], False)
        enter_namespaces()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = init(settings)
            except BaseException as error:
                report(settings, refused=f"{type(error).__name__}: {error}")
            os._exit(code)
    except OSError as error:
        report(settings, refused=f"{type(error).__name__}: {error}")
        return 1
    os.waitpid(child, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
