"""After `seal()` the kernel kills this process when anything in it opens a file, makes a socket or runs a program.

Linux only, by seccomp: Python's audit hooks don't see what native code does. Whatever a decoder is tricked into
touching then shows as a death by SIGSYS, with the input at hand.
"""

import ctypes
import errno
import platform
import signal

SEALED_BY = signal.SIGSYS
_FILES = {"x86_64": (2, 257, 85, 437), "aarch64": (56, 437)}
"""open, openat, creat, openat2"""
_OTHERS = {"x86_64": (41, 42, 49, 59, 322, 57, 58), "aarch64": (198, 203, 200, 221, 281)}
"""socket, connect, bind, execve, execveat, fork, vfork"""
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_M_ARENA_MAX = -8
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _NO_SUCH_FILE, _KILL_PROCESS = 0x7FFF0000, 0x00050000 | errno.ENOENT, 0x80000000


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction)))


def seal(*, hide_files: bool = False) -> None:
    """For good, and for all threads started from now on. Raises OSError where the kernel refuses.

    hide_files: no file is there to be opened, instead of death to who tries.
    """
    machine, on_file = platform.machine(), _NO_SUCH_FILE if hide_files else _KILL_PROCESS
    code = [_Instruction(_LOAD_WORD, 0, 0, 0)]  # the number of the system call
    for numbers, verdict in ((_FILES[machine], on_file), (_OTHERS[machine], _KILL_PROCESS)):
        for number in numbers:
            code += [_Instruction(_JUMP_IF_EQUAL, 0, 1, number), _Instruction(_RETURN, 0, 0, verdict)]
    code.append(_Instruction(_RETURN, 0, 0, _ALLOW))
    program = _Program(len(code), (_Instruction * len(code))(*code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mallopt(_M_ARENA_MAX, 2)  # else glibc asks a file for the number of cores when a thread first allocates
    for arguments in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program)):
        passed = [ctypes.byref(value) if isinstance(value, _Program) else ctypes.c_ulong(value) for value in arguments]
        if libc.prctl(*passed) != 0:
            raise OSError(ctypes.get_errno(), "this process can't be sealed")
