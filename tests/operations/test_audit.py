"""The audit log: what an entry holds, what shows when lines are touched, several writers, and death while writing."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from programs import UNMEASURED, python, run_python

from flujo_lens.errors import BusyError, LensError, OperationFailedError, UnreachableStoreError
from flujo_lens.operations.audit import AuditLog
from flujo_lens.operations.audit_chain import new_audit_id
from flujo_lens.operations.audit_changes import Newest
from flujo_lens.operations.audit_head import head_path
from flujo_lens.operations.sidecar_files import last_line

NOW = datetime(2026, 11, 21, 3, 11, 8, 123456, tzinfo=UTC)
ZEROS = "0" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ops.db.lens-audit.ndjson"


def log_at(path: Path, now: datetime = NOW, timeout: float = 10) -> AuditLog:
    return AuditLog(path, actor="ana", host="ops1", now=lambda: now, timeout=timeout)


def write(path: Path, *run_ids: str, now: datetime = NOW) -> str:
    counts = {"deleted": len(run_ids)}
    return log_at(path, now).append(command=["lens", "delete", *run_ids], reason="why", counts=counts, run_ids=run_ids)


def write_three(path: Path) -> list[bytes]:
    for name in ("a", "b", "c"):
        write(path, name)
    return path.read_bytes().splitlines()


def test_an_entry(path: Path) -> None:
    audit_id = write(path, "r 1", "r/2")
    told = json.loads(path.read_bytes())
    assert list(told)[:9] == ["audit_id", "at", "actor", "host", "command", "reason", "state", "counts", "run_ids"]
    assert told.pop("digest") != told["previous"] == ZEROS
    assert told == {
        "audit_id": audit_id,
        "at": "2026-11-21T03:11:08.123456Z",
        "actor": "ana",
        "host": "ops1",
        "command": ["lens", "delete", "r 1", "r/2"],
        "reason": "why",
        "state": "finished",
        "counts": {"deleted": 2},
        "run_ids": ["r 1", "r/2"],
        "previous": ZEROS,
    }
    (entry,) = log_at(path).entries()
    assert entry[:8] == (audit_id, NOW, "ana", "ops1", tuple(told["command"]), "why", {"deleted": 2}, ("r 1", "r/2"))


def test_only_the_owner_may_read_it(path: Path) -> None:
    write(path, "a")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_each_entry_holds_the_hash_of_the_line_before(path: Path) -> None:
    lines = write_three(path)
    assert [json.loads(line)["previous"] for line in lines] == [
        ZEROS,
        *(sha256(line).hexdigest() for line in lines[:2]),
    ]
    report = log_at(path).verify()
    assert (report.ok, report.entries, report.head) == (True, 3, sha256(lines[2]).hexdigest())


def test_the_digest_is_of_the_line_without_it(path: Path) -> None:
    write(path, "a")
    line = path.read_bytes().removesuffix(b"\n")
    digest = json.loads(line)["digest"]
    assert sha256(line.replace(f',"digest":"{digest}"'.encode(), b"")).hexdigest() == digest


def test_ids_sort_by_time_and_none_begins_another() -> None:
    times = [NOW + timedelta(microseconds=10**power) for power in range(12)]
    ids = [new_audit_id(when.astimezone(timezone(timedelta(hours=power - 6)))) for power, when in enumerate(times)]
    assert ids == sorted(ids)
    assert {len(one) for one in ids} == {len(ids[0])}
    assert all(one.replace("-", "").replace("T", "").isalnum() and one.isascii() for one in ids)
    assert len({new_audit_id(NOW) for _ in range(100)}) == 100


def test_an_id_that_was_needed_before(path: Path) -> None:
    given = new_audit_id(NOW)
    assert log_at(path).append(command=[], reason=None, counts={}, run_ids=[], audit_id=given) == given
    assert [entry.audit_id for entry in log_at(path).entries()] == [given]


@pytest.mark.parametrize("text", ["\ud800", "a\nb", '"}', ',"digest":"', "\x1b[2J", "\x00", "日本"])
def test_any_text_can_be_written(path: Path, text: str) -> None:
    log = AuditLog(path, actor=text, host=text, now=lambda: NOW, store=text)
    log.append(command=[text], reason=text, counts={}, run_ids=[text])
    (entry,) = log.entries()
    told = text.encode("utf-8", "backslashreplace").decode()
    assert (entry.actor, entry.command, entry.reason, entry.run_ids, entry.store) == (
        told,
        (told,),
        told,
        (told,),
        told,
    )
    assert path.read_bytes().count(b"\n") == 1
    assert log.verify().ok


def test_beside_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    beside = tmp_path / "states.lens-audit.ndjson"
    assert AuditLog.sidecar_path(folder) == AuditLog.sidecar_path(tmp_path / "link") == beside
    assert AuditLog.sidecar_path(tmp_path / "ops.db") == tmp_path / "ops.db.lens-audit.ndjson"


# --- many runs


def test_very_many_runs(path: Path) -> None:
    """The ids' texts are held once: by the caller."""
    ids = [f"run_{number * 7919 % 200_000:032x}" for number in range(200_000)]
    tracemalloc.start()
    log_at(path).append(command=["lens", "prune"], reason=None, counts={"deleted": len(ids)}, run_ids=ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(map(sys.getsizeof, ids)) / 4
    assert path.stat().st_size < 1000
    (entry,) = log_at(path).entries()
    expected = sha256("".join(f"{run_id}\n" for run_id in sorted(ids)).encode()).hexdigest()
    assert (entry.run_ids, entry.run_count, entry.run_ids_digest) == ((), 200_000, expected)


def test_up_to_ten_thousand_are_named(path: Path) -> None:
    ids = [f"{number:05}" for number in range(10_000)]
    write(path, *ids)
    write(path, *ids, "one more")
    first, second = log_at(path).entries()
    assert (list(first.run_ids), first.run_count, first.run_ids_digest) == (ids, 10_000, None)
    assert (second.run_ids, second.run_count) == ((), 10_001)


# --- reading


def test_no_log(path: Path) -> None:
    log = log_at(path)
    assert list(log.entries()) == []
    assert (log.verify().ok, log.verify().entries, log.verify().head) == (True, 0, ZEROS)
    assert list(path.parent.iterdir()) == []


def test_of_a_run_and_since(path: Path) -> None:
    for hours, ids in enumerate((["a"], ["a", "b"], ["b"])):
        write(path, *ids, now=NOW + timedelta(hours=hours))
    log = log_at(path)
    assert [entry.run_ids for entry in log.entries(run_id="a")] == [("a",), ("a", "b")]
    assert [entry.run_ids for entry in log.entries(since=NOW + timedelta(hours=1))] == [("a", "b"), ("b",)]
    assert [entry.run_ids for entry in log.entries(run_id="b", since=NOW + timedelta(hours=2))] == [("b",)]


def test_entries_that_do_not_name_their_runs_are_counted(path: Path) -> None:
    write(path, *(str(number) for number in range(10_001)))
    log = log_at(path)
    assert (list(log.entries(run_id="a")), log.unsure) == ([], 1)
    assert (len(list(log.entries())), log.unsure) == (1, 0)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b"{}",
        b'{"at":"2026-11-21T03:11:08Z"}',
        b"\xff\xfe",
        b"\x00" * 5000,
        b"[" * 5000,
    ],
)
def test_what_is_no_entry_is_passed_over_and_counted(path: Path, line: bytes) -> None:
    write(path, "a")
    with path.open("ab") as file:
        file.write(line + b"\n")
    write(path, "b")
    log = log_at(path)
    assert [entry.run_ids for entry in log.entries()] == [("a",), ("b",)]
    assert log.skipped == 1
    report = log.verify()
    assert (report.line, report.why, report.entries) == (2, "no JSON", 1)


def test_a_log_that_cannot_be_read(path: Path) -> None:
    path.mkdir()
    with pytest.raises(UnreachableStoreError, match="not a regular file"):
        list(log_at(path).entries())
    with pytest.raises(UnreachableStoreError):
        log_at(path).verify()


# --- lines that were touched


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_changed_line(path: Path, number: int) -> None:
    lines = write_three(path)
    lines[number] = lines[number].replace(b'"why"', b'"who"')
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    report = log_at(path).verify()
    assert (report.ok, report.line, report.why, report.entries) == (False, number + 1, "changed", number)


def test_any_changed_byte_shows(path: Path) -> None:
    write_three(path)
    whole = path.read_bytes()
    for place in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert not log_at(path).verify().ok, place


@pytest.mark.parametrize("number", [0, 1])
def test_a_removed_line(path: Path, number: int) -> None:
    lines = write_three(path)
    del lines[number]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    report = log_at(path).verify()
    assert (report.line, report.why, report.entries) == (number + 1, "removed", number)


def test_a_line_written_anew_with_its_own_digest(path: Path, tmp_path: Path) -> None:
    lines = write_three(path)
    write(tmp_path / "forged", "another")
    forged = (tmp_path / "forged").read_bytes()
    path.write_bytes(forged + b"".join(line + b"\n" for line in lines[1:]))
    report = log_at(path).verify()
    assert (report.line, report.why) == (2, "removed")


def test_lines_taken_from_the_end_show_by_the_head(path: Path) -> None:
    lines = write_three(path)
    head = log_at(path).verify().head
    head_path(path).unlink()
    path.write_bytes(b"".join(line + b"\n" for line in lines[:2]))
    report = log_at(path).verify()
    assert (report.ok, report.entries, report.has_length) == (True, 2, False)
    assert report.head != head


# --- the length that is kept beside it


@pytest.mark.parametrize("left", [0, 1, 2])
def test_lines_cut_from_the_end(path: Path, left: int) -> None:
    lines = write_three(path)
    assert log_at(path).verify().has_length
    path.write_bytes(b"".join(line + b"\n" for line in lines[:left]))
    report = log_at(path).verify()
    assert (report.ok, report.entries, report.line, report.why) == (False, left, left + 1, "cut")
    write(path, "d")
    report = log_at(path).verify()
    assert (report.ok, report.line, report.why) == (False, left + 1, "after a cut")
    assert [entry.run_ids for entry in log_at(path).entries()][-1] == ("d",)


def test_an_end_that_was_written_anew_shows(path: Path, tmp_path: Path) -> None:
    lines = write_three(path)
    other = tmp_path / "other"
    other.write_bytes(b"".join(line + b"\n" for line in lines[:2]))
    write(other, "forged")
    write(other, "forged, too")
    path.write_bytes(other.read_bytes())
    assert (log_at(path).verify().line, log_at(path).verify().why) == (5, "cut")


def test_a_log_that_is_gone(path: Path) -> None:
    write_three(path)
    path.unlink()
    assert (log_at(path).verify().line, log_at(path).verify().why) == (1, "cut")


def test_a_log_that_was_moved_away(path: Path, tmp_path: Path) -> None:
    write_three(path)
    head = log_at(path).verify().head
    path.rename(tmp_path / "ops.1")
    write(path, "d")
    report = log_at(path).verify()
    assert (report.ok, report.entries, report.continues) == (True, 1, head)
    assert log_at(tmp_path / "ops.1").verify().head == head


def test_a_log_that_was_moved_away_with_its_length(path: Path, tmp_path: Path) -> None:
    write_three(path)
    path.rename(tmp_path / "ops.1")
    head_path(path).rename(head_path(tmp_path / "ops.1"))
    write(path, "d")
    report = log_at(path).verify()
    assert (report.ok, report.entries, report.continues) == (True, 1, None)
    older = log_at(tmp_path / "ops.1").verify()
    assert (older.ok, older.entries, older.has_length) == (True, 3, True)


def test_a_writer_that_died_before_the_length_was_kept(path: Path) -> None:
    write_three(path)
    kept = head_path(path).read_bytes()
    write(path, "d")
    head_path(path).write_bytes(kept)
    assert log_at(path).verify() == log_at(path).verify()._replace(entries=4, line=None, why=None, has_length=True)
    write(path, "e")
    assert (log_at(path).verify().ok, log_at(path).verify().entries) == (True, 5)


@pytest.mark.parametrize("kept", [b"", b"{", b"[]", b'{"length": "many", "head": 1, "file": 2}'])
def test_a_length_that_cannot_be_read_is_none(path: Path, kept: bytes) -> None:
    write_three(path)
    head_path(path).write_bytes(kept)
    assert (log_at(path).verify().ok, log_at(path).verify().has_length) == (True, False)
    write(path, "d")
    assert log_at(path).verify().has_length


def test_only_the_owner_may_read_the_length(path: Path) -> None:
    write(path, "a")
    assert stat.S_IMODE(head_path(path).stat().st_mode) == 0o600
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, head_path(path).name]


# --- what came of it


def test_the_end_of_a_change_is_joined_to_its_start(path: Path) -> None:
    log = log_at(path)
    words = ["lens", "delete"]
    begun = log.append(command=words, reason=None, counts={"planned": 2}, run_ids=["a", "b"], state="started")
    other = log.append(command=words, reason=None, counts={"planned": 1}, run_ids=["c"], state="started")
    third = log.append(command=words, reason=None, counts={"steps": 1}, run_ids=[])
    log.append(command=words, reason=None, counts={"deleted": 1}, run_ids=["a"], closes=begun)
    assert _joined(log) == [
        (third, "finished", {"steps": 1}, (), None),
        (other, "started", {"planned": 1}, ("c",), None),
        (begun, "finished", {"deleted": 1}, ("a",), None),
    ]
    log.append(command=words, reason=None, counts={"deleted": 0}, run_ids=[], closes=other, error="LENS-B1")
    assert _joined(log)[1] == (other, "failed", {"deleted": 0}, (), "LENS-B1")
    assert [row[0] for row in _joined(log, most=2)] == [third, other]
    assert _joined(log, since=NOW + timedelta(seconds=1)) == []


def test_an_end_without_its_start_stands_for_itself(path: Path) -> None:
    log = log_at(path)
    log.append(command=["lens"], reason=None, counts={"deleted": 1}, run_ids=["a"], closes="20261121T000000000000-1")
    assert _joined(log) == [("20261121T000000000000-1", "finished", {"deleted": 1}, ("a",), None)]


def _joined(log: AuditLog, most: int = 9, since: datetime | None = None) -> list[tuple[object, ...]]:
    newest = Newest(most, since)
    for entry in log.entries(since=since):
        newest.take(entry)
    return [(each.audit_id, each.state, each.counts, each.run_ids, each.error) for each in newest.changes()]


def test_secrets_in_a_reason_are_masked(path: Path) -> None:
    log = log_at(path)
    log.append(command=["lens"], reason="postgresql://u:secret@h/d", counts={}, run_ids=[])
    assert b"secret" not in path.read_bytes()
    assert [entry.reason for entry in log.entries()] == ["postgresql://u:***@h/d"]


# --- torn lines


def test_a_torn_last_line(path: Path) -> None:
    write_three(path)
    whole = path.read_bytes()
    end = whole.rindex(b"\n", 0, -1) + 1
    for cut in (end + 1, end + 40, len(whole) - 2):
        path.write_bytes(whole[:cut])
        head_path(path).unlink()
        report = log_at(path).verify()
        assert (report.ok, report.entries, report.line, report.why) == (False, 2, 3, "torn")
        write(path, "d")
        log = log_at(path)
        assert [entry.run_ids for entry in log.entries()] == [("a",), ("b",), ("d",)]
        assert log.skipped == 1
        assert path.read_bytes().splitlines()[2] == whole[end:cut]
        report = log.verify()
        assert (report.ok, report.entries, report.torn) == (True, 3, (3,))


def test_only_the_newline_is_missing(path: Path) -> None:
    write_three(path)
    path.write_bytes(path.read_bytes()[:-1])
    head_path(path).unlink()
    assert log_at(path).verify().entries == 3
    write(path, "d")
    report = log_at(path).verify()
    assert (report.ok, report.entries, report.torn) == (True, 4, ())


def test_a_torn_line_does_not_hide_a_change(path: Path) -> None:
    lines = write_three(path)
    path.write_bytes(b"".join(line + b"\n" for line in lines) + b'{"audit')
    write(path, "d")
    touched = path.read_bytes().replace(b'{"audit\n', b'{"other\n')
    path.write_bytes(touched)
    report = log_at(path).verify()
    assert (report.line, report.why) == (4, "no JSON")


@pytest.mark.parametrize("length", [1, 65535, 65536, 65537, 200_000])
@pytest.mark.parametrize("before", [b"", b"first\n", b"\n"])
def test_the_last_line_is_found(path: Path, length: int, before: bytes) -> None:
    for end in (b"", b"\n"):
        path.write_bytes(before + b"x" * length + end)
        with path.open("rb") as file:
            assert last_line(file.fileno(), path.stat().st_size) == (b"x" * length, bool(end))


# --- writers


APPEND = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    from flujo_lens.operations.audit import AuditLog

    log = AuditLog(Path(sys.argv[1]), actor=sys.argv[2], host="h", now=lambda: datetime.now(UTC))
    for number in range(int(sys.argv[3])):
        log.append(command=["lens"], reason="x" * 5000, counts={"n": number}, run_ids=[f"{sys.argv[2]}-{number}"])
"""


def appender(path: Path, name: str, times: int) -> subprocess.Popen[bytes]:
    return python("-c", textwrap.dedent(APPEND), path, name, times)


def test_several_processes_keep_the_chain(path: Path) -> None:
    processes = [appender(path, name, 25) for name in ("p", "q", "r")]
    while any(process.poll() is None for process in processes):
        assert log_at(path).verify().ok
    assert [process.returncode for process in processes] == [0, 0, 0]
    report = log_at(path).verify()
    assert (report.ok, report.entries) == (True, 75)
    entries = list(log_at(path).entries())
    for name in ("p", "q", "r"):
        assert [entry.counts["n"] for entry in entries if entry.actor == name] == list(range(25))
    assert [entry.audit_id for entry in entries] == sorted(entry.audit_id for entry in entries)


def test_several_threads_keep_the_chain(path: Path) -> None:
    log = log_at(path)

    def one(number: int) -> str:
        return log.append(command=[], reason=None, counts={}, run_ids=[str(number)])

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(one, range(40)))
    assert {entry.audit_id for entry in log.entries()} == set(ids)
    assert log.verify() == log.verify()._replace(entries=40, line=None)


def test_a_killed_writer_leaves_a_torn_line_at_most(path: Path) -> None:
    for round_ in range(4):
        process = appender(path, f"k{round_}", 100_000)
        size = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size < size + 20_000:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        report = log_at(path).verify()
        assert report.ok or report.why == "torn"
        write(path, f"after-{round_}")
        assert log_at(path).verify().ok


def test_a_log_that_is_held(path: Path) -> None:
    write(path, "a")
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another process"):
            log_at(path, timeout=0.05).append(command=[], reason=None, counts={}, run_ids=[])
        assert log_at(path, timeout=0.05).verify().entries == 1
    write(path, "b")


def test_a_log_that_was_moved_away_while_it_was_waited_for(path: Path) -> None:
    write(path, "a")
    moved = path.with_suffix(".1")
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        process = appender(path, "p", 1)
        while not _has_open(process.pid, path):
            assert process.poll() is None
        path.rename(moved)
    assert process.wait() == 0
    assert [entry.actor for entry in log_at(moved).entries()] == ["ana"]
    assert [entry.actor for entry in log_at(path).entries()] == ["p"]
    assert log_at(path).verify().ok


def _has_open(pid: int, path: Path) -> bool:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(link) == str(path):
                return True
        except FileNotFoundError:
            continue
    return False


# --- what cannot be written


def test_a_check_creates_and_changes_nothing(path: Path) -> None:
    log_at(path).check()
    assert list(path.parent.iterdir()) == []
    write(path, "a")
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    log_at(path).check()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def refused(path: Path, error: type[LensError]) -> None:
    with pytest.raises(error) as checked:
        log_at(path).check()
    with pytest.raises(error) as appended:
        log_at(path).append(command=[], reason=None, counts={}, run_ids=[])
    for raised in (checked, appended):
        assert str(path) in raised.value.message
        assert "--audit-file" in str(raised.value.hint)


def test_where_there_is_no_folder(path: Path) -> None:
    refused(path.parent / "nowhere" / path.name, OperationFailedError)
    path.write_bytes(b"")
    refused(path / "below a file", OperationFailedError)
    assert os.listdir(path.parent) == [path.name]


def test_where_there_is_no_file(path: Path) -> None:
    os.mkfifo(path)
    refused(path, OperationFailedError)
    path.unlink()
    path.mkdir()
    refused(path, OperationFailedError)


@UNMEASURED
@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
@pytest.mark.parametrize("exists", [True, False])
def test_where_it_may_not_be_written(exists: bool) -> None:
    # Not below the folders of pytest, whose rights another session may change meanwhile.
    with TemporaryDirectory() as folder:
        _check_as_another_user(Path(folder) / "store.lens-audit.ndjson", exists)


def _check_as_another_user(path: Path, exists: bool) -> None:
    if exists:
        write(path, "a")
    path.parent.chmod(0o755)
    program = f"""
        import os
        os.setuid(65534)
        from datetime import UTC, datetime
        from pathlib import Path
        log = AuditLog(Path({str(path)!r}), actor="a", host="h", now=lambda: datetime.now(UTC))
        for work in (log.check, lambda: log.append(command=[], reason=None, counts={{}}, run_ids=[])):
            try:
                work()
            except ReadOnlyStoreError as error:
                print(error.code)
        """
    imports = "from flujo_lens.operations.audit import AuditLog\nfrom flujo_lens.errors import ReadOnlyStoreError\n"
    done = run_python("-c", imports + textwrap.dedent(program), text=False)
    assert (done.stdout.split(), done.stderr) == ([b"LENS-S5"] * 2, b"")
    assert path.exists() == exists


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond: a write stops there in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_write_that_fails_in_the_middle_is_taken_back(path: Path) -> None:
    write(path, "a")
    before = path.read_bytes()
    with largest_file(len(before) + 100), pytest.raises(OperationFailedError) as raised:
        write(path, "b")
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__cause__.errno == errno.EFBIG
    assert path.read_bytes() == before
    write(path, "c")
    assert (log_at(path).verify().ok, log_at(path).verify().torn) == (True, ())
