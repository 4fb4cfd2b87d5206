#!/usr/bin/env python3
"""Run a command as a container does that forbids io_uring: its three system calls fail with EPERM.

    tests/process/no_io_uring.py COMMAND...

Exit 77: no seccomp filter can be set here.
"""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
LOAD_WORD, JUMP_IF_GE, JUMP_IF_GT, RETURN = 0x20, 0x35, 0x25, 0x06
ALLOW, FAIL_WITH_EPERM = 0x7FFF0000, 0x00050001
FIRST, LAST = 425, 427  # io_uring_setup, _enter, _register: the same on every architecture


def instruction(code, if_true, if_false, k):
    return struct.pack("HBBI", code, if_true, if_false, k)


def forbid():
    code = b"".join((
        instruction(LOAD_WORD, 0, 0, 0),
        instruction(JUMP_IF_GE, 0, 2, FIRST),
        instruction(JUMP_IF_GT, 1, 0, LAST),
        instruction(RETURN, 0, 0, FAIL_WITH_EPERM),
        instruction(RETURN, 0, 0, ALLOW),
    ))
    filter_code = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(code) // 8, ctypes.addressof(filter_code))
    libc = ctypes.CDLL(None, use_errno=True)
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        return False
    return libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER),
                      ctypes.create_string_buffer(program, len(program)), zero, zero) == 0


def main():
    if len(sys.argv) < 2:
        sys.exit("usage: no_io_uring.py COMMAND...")
    if not forbid():
        print(f"no_io_uring: {os.strerror(ctypes.get_errno())}", file=sys.stderr)
        sys.exit(77)
    os.execvp(sys.argv[1], sys.argv[1:])


main()
