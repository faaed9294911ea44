"""Identity of processes, and whether a process on this machine is alive.

Process ids are reused, so a process is identified by its id, its start, the boot of the machine, and the pid namespace
of its container.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

_UNKNOWN = ""


@cache
def boot_id() -> str:
    """``<boot>/<pid namespace>/<machine>``; unknown parts are empty."""
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
    """A hash of the machine's id, which is confidential."""
    import hashlib  # slow to import, and not needed by most commands

    found = _read("/etc/machine-id")
    return hashlib.sha256(found.encode()).hexdigest()[:16] if found else _UNKNOWN


def is_other_boot(theirs: str) -> bool | None:
    """Whether `theirs`, from a machine with this name, is an earlier boot of this machine.

    Returns:
        None if unknown: another machine of the same name, another container, or not reported by the system.
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
    """The start of the process `pid` of this machine, as reported by the system.

    Returns:
        A text that differs for another process of the same id; "" if it is alive and its start is unknown; None if
        there is no such process, or it is a zombie.
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
    # the program name, in brackets, may contain spaces and brackets
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
