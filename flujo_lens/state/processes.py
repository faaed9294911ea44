"""Which process this is, and whether another one of this machine still lives.

A process id alone names nobody: it is given anew after a death. Together with the process's start and the boot of
the machine it is unique. Containers share a machine's boot and count their processes apart, so the namespace of
process ids belongs to it too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

__all__ = ["boot_id", "is_other_boot", "start_of"]

_UNKNOWN = ""


@cache
def boot_id() -> str:
    """``<boot>/<namespace of process ids>/<machine>``; a part that the system does not tell is empty."""
    return "/".join((_boot(), _namespace(), _machine()))


def _boot() -> str:
    if sys.platform == "darwin":
        return _asked("sysctl", "-n", "kern.bootsessionuuid")
    return _read("/proc/sys/kernel/random/boot_id")


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return _UNKNOWN


def _machine() -> str:
    """A hash of the machine's id, which itself is not for others to see."""
    import hashlib  # loads a library of its own, and most commands ask for no process

    found = _read("/etc/machine-id")
    return hashlib.sha256(found.encode()).hexdigest()[:16] if found else _UNKNOWN


def is_other_boot(theirs: str) -> bool | None:
    """Whether `theirs`, written on a machine of this name, is of an earlier boot of this one.

    Returns:
        None if that is not known: another machine of the same name, another container, or the system does not tell.
    """
    (boot, space, machine), (our_boot, our_space, our_machine) = _parts(theirs), _parts(boot_id())
    if not boot or not our_boot or (machine and our_machine and machine != our_machine):
        return None
    if boot != our_boot:
        return True
    return False if space == our_space else None


def _parts(text: str) -> tuple[str, str, str]:
    boot, _, rest = text.partition("/")
    space, _, machine = rest.partition("/")
    return boot, space, machine


def start_of(pid: int) -> str | None:
    """When the process `pid` of this machine began, as the system tells it.

    Returns:
        A text that differs for another process of the same id; "" if it lives and its start is not known; None if
        there is no such process, or it is dead and only waits for its parent to notice.
    """
    if sys.platform == "win32":
        return _UNKNOWN
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass
    return _start_in_proc(pid) if os.path.isdir("/proc/self") else _asked("ps", "-o", "lstart=", "-p", str(pid))


def _start_in_proc(pid: int) -> str | None:
    # The name of the program, in brackets, may hold blanks and brackets.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return _UNKNOWN
    return None if fields[0] in "ZX" else fields[19]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return _UNKNOWN


def _asked(*command: str) -> str:
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return _UNKNOWN
    return found.stdout.strip()
