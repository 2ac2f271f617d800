"""A system-call filter as classic BPF. Standard library only: it is loaded by `jail.py` in a bare interpreter.

Refused with EPERM: everything that makes a process (threads are allowed), a socket, a namespace, a mount, shared memory
outside the address-space limit, or that looks into other processes. Foreign system-call tables end the process.
"""

import ctypes
import platform
import struct

CLONE_THREAD = 0x10000
EPERM, ENOSYS = 1, 38
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000

# name: (x86_64, aarch64); None where the architecture has no such call. Linux, arch/x86/entry/syscalls and asm-generic.
_CALLS = {
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "syslog": (103, 116),
    "open_by_handle_at": (304, 265),
}
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def number(name: str) -> int:
    """The number of a system call on this machine.

    Raises:
        OSError: an architecture without a table here.
    """
    return _table()[0][name]


def _table() -> tuple[dict[str, int], int]:
    if platform.machine() not in _ARCHITECTURES:
        raise OSError(f"no system-call table for {platform.machine()}; known: {', '.join(_ARCHITECTURES)}")
    column, audit = _ARCHITECTURES[platform.machine()]
    return {name: calls[column] for name, calls in _CALLS.items() if calls[column] is not None}, audit  # type: ignore[misc]


def program() -> bytes:
    """The filter: an array of struct sock_filter (code, jump if true, jump if false, operand)."""
    calls, audit = _table()

    def op(code: int, operand: int, true: int = 0, false: int = 0) -> bytes:
        return struct.pack("HBBI", code, true, false, operand)

    lines = [op(_LOAD, _ARCHITECTURE), op(_JUMP_EQUAL, audit, 1, 0), op(_RETURN, _KILL), op(_LOAD, _NUMBER)]
    lines += [op(_JUMP_AT_LEAST, _X32, 0, 1), op(_RETURN, _KILL)]
    for name, call in calls.items():
        if name == "clone":  # a thread shares the limits of its process; a process would have limits of its own
            lines += [op(_JUMP_EQUAL, call, 0, 4), op(_LOAD, _FIRST_ARGUMENT)]
            lines += [op(_JUMP_ANY_BIT, CLONE_THREAD, 0, 1), op(_RETURN, _ALLOW), op(_RETURN, _ERRNO | EPERM)]
        else:
            # glibc makes threads with clone3 and falls back to clone where it does not exist
            error = ENOSYS if name == "clone3" else EPERM
            lines += [op(_JUMP_EQUAL, call, 0, 1), op(_RETURN, _ERRNO | error)]
    return b"".join([*lines, op(_RETURN, _ALLOW)])


def install(libc: ctypes.CDLL) -> None:
    """Set the filter for this process and all that it executes; it cannot be taken off again.

    Raises:
        OSError: the kernel has no filters.
    """
    code = program()
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    described = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    no_new_privileges, set_filter, mode_filter = 38, 22, 2  # linux/prctl.h
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_filter, mode_filter, ctypes.byref(described), 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refuses a system-call filter")
