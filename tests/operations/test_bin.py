"""The bin: what goes in, what is found, what is removed when."""

from __future__ import annotations

import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flujo_lens.errors import AmbiguousRunError, ArchiveError, BusyError, OperationFailedError, RunNotFoundError
from flujo_lens.operations.archive import ArchiveWriter
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.audit_chain import new_audit_id
from flujo_lens.operations.recycle_bin import Bin

NOW = datetime(2026, 11, 21, 3, 11, 8, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.fixture
def bin(tmp_path: Path) -> Bin:
    return Bin(tmp_path / "ops.db.lens-bin", WEEK, 10_000)


def opened(bin: Bin, when: datetime = NOW, audit_id: str | None = None) -> ArchiveWriter:
    audit_id = audit_id or new_audit_id(when)
    return bin.open(audit_id, Header("s", "sqlite", when, audit_id, ("lens", "delete", "x")))


def put(bin: Bin, when: datetime = NOW, runs: int = 1, audit_id: str | None = None) -> Path:
    writer = opened(bin, when, audit_id)
    writer.keep([{"run_id": str(number), "last": True} for number in range(runs)])
    writer.finish(complete=True)
    return writer.path


def test_what_is_in_it(bin: Bin) -> None:
    old, new = put(bin, NOW, 3), put(bin, NOW + timedelta(hours=1))
    first, second = bin.items()
    assert (first.path, second.path) == (new, old)
    assert second.audit_id == old.name.removesuffix(".ndjson.gz")
    assert (second.runs, second.until, second.size_bytes) == (3, NOW + WEEK, old.stat().st_size)
    assert (second.made_at, second.command) == (NOW, ("lens", "delete", "x"))


def test_only_the_owner_may_look(bin: Bin) -> None:
    path = put(bin)
    assert stat.S_IMODE(bin.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_looking_makes_nothing(bin: Bin) -> None:
    assert (bin.items(), bin.expire(NOW)) == ([], 0)
    with pytest.raises(RunNotFoundError):
        bin.find("2026")
    assert not bin.folder.exists()


def test_one_whose_writer_was_killed_counts(bin: Bin) -> None:
    writer = opened(bin)
    writer.keep([{"run_id": "a", "last": True}, {"run_id": "b", "last": True}])
    writer.close()
    assert [item.runs for item in bin.items()] == [2]


def test_what_is_being_written_is_not_there_yet(bin: Bin) -> None:
    writer = opened(bin, audit_id="20261121T000000000000-00000001")
    assert bin.items() == []
    with pytest.raises(BusyError):
        bin.find("20261121T000000000000-00000001")
    writer.close()
    assert [item.runs for item in bin.items()] == [0]


def test_what_is_no_archive_is_left_out(bin: Bin) -> None:
    put(bin)
    (bin.folder / "notes.txt").touch()
    (bin.folder / "broken.ndjson.gz").write_bytes(b"rubbish")
    (bin.folder / "link.ndjson.gz").symlink_to("broken.ndjson.gz")
    (bin.folder / "folder.ndjson.gz").mkdir()
    assert len(bin.items()) == 1
    with pytest.raises(ArchiveError, match="is not an archive"):
        bin.find("broken")


def test_by_its_id_or_the_beginning(bin: Bin) -> None:
    for audit_id in ("20261121T000000000000-0000000a", "20261121T000000000000-0000000b", "20261122"):
        put(bin, audit_id=audit_id)
    assert bin.find("20261121T000000000000-0000000a").audit_id == "20261121T000000000000-0000000a"
    assert bin.find("20261122", prefix=False).audit_id == "20261122"
    assert bin.find("20261121T000000000000-0000000b"[:30]).audit_id == "20261121T000000000000-0000000b"
    with pytest.raises(AmbiguousRunError) as caught:
        bin.find("20261121")
    assert caught.value.hint is not None
    assert "20261121T000000000000-0000000b" in caught.value.hint
    for text, prefix in (("2026112", False), ("202", True), ("", True), ("..", True), ("3026", True)):
        with pytest.raises(RunNotFoundError):
            bin.find(text, prefix=prefix)


def test_what_is_old_is_removed(bin: Bin) -> None:
    old, young = put(bin, NOW - WEEK - timedelta(seconds=1)), put(bin, NOW - WEEK + timedelta(seconds=1))
    future = put(bin, NOW + WEEK)
    foreign = bin.folder / "mine.ndjson.gz"
    foreign.write_bytes(b"")
    assert bin.expire(NOW) == 1
    assert sorted(bin.folder.iterdir()) == sorted([young, future, foreign])
    assert not old.exists()


def test_an_empty_bin_goes_too(bin: Bin) -> None:
    put(bin, NOW - 2 * WEEK)
    bin.expire(NOW)
    assert not bin.folder.exists()


def test_what_nothing_came_into_leaves_nothing(bin: Bin) -> None:
    opened(bin).abandon()
    bin.expire(NOW)
    assert not bin.folder.exists()


def test_what_is_in_use_stays(bin: Bin) -> None:
    long_ago = NOW - 2 * WEEK
    read, written = put(bin, long_ago), opened(bin, long_ago)
    with bin.held(read):
        assert bin.expire(NOW) == 0
        assert not bin.remove(read)
    written.close()
    assert bin.expire(NOW) == 2


def test_two_may_read(bin: Bin) -> None:
    path = put(bin)
    with bin.held(path), bin.held(path):
        assert len(bin.items()) == 1


def test_what_does_not_fit(bin: Bin) -> None:
    assert bin.why_not(10_000, 1 << 20) is None
    told = bin.why_not(10_001, 0)
    assert told == "10,001 runs are too many for the bin (max_runs = 10,000)"
    free = shutil.disk_usage(bin.folder.parent).free
    assert bin.why_not(1, free) is None, "packed it takes a fourth part"
    told = bin.why_not(1, 5 * free)
    assert told is not None
    assert "not enough space" in told
    assert "8.0 MiB reserved" in told
    assert not bin.folder.exists()


@pytest.mark.parametrize("where", ["no folder", "file"])
def test_where_it_cannot_be_written_nothing_may_be_deleted(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "none" / "b.lens-bin" if where == "no folder" else tmp_path / "b.lens-bin"
    if where == "file":
        folder.touch()
    with pytest.raises(OperationFailedError, match="cannot write to the bin") as caught:
        opened(Bin(folder, WEEK, 1))
    assert caught.value.hint is not None
    assert "--no-bin" in caught.value.hint


def test_its_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("ops.db")
    assert Bin.sidecar_path(tmp_path / "link") == tmp_path / "ops.db.lens-bin"
