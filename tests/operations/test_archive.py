"""Archives of runs: what is written, what shows when bytes are touched, full disks, and death while writing."""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from programs import python

from flujo_lens.errors import (
    ArchiveError,
    CorruptArchiveError,
    MissingExtraError,
    OperationFailedError,
    ReadOnlyStoreError,
    UsageError,
)
from flujo_lens.operations import archive_reader
from flujo_lens.operations.archive import ArchiveWriter, archive_path, check_archive_path
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.archive_reader import Group, LongRun, read_archive, survey
from flujo_lens.state.deletion import Record

NOW = datetime(2026, 11, 21, 7, 42, tzinfo=UTC)
HEADER = Header("sqlite:///ops.db", "sqlite", NOW, "20261121T074200000000-0a0b0c0d", ("lens", "prune", "--yes"), NOW)
ROUNDS = 100 if "LENS_SOAK" in os.environ else 10


@pytest.fixture(params=["plain", "gz", "zst"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A path of each form."""
    if request.param == "zst":
        pytest.importorskip("zstandard")
    return tmp_path / f"runs.ndjson{'' if request.param == 'plain' else f'.{request.param}'}"


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return tmp_path / "runs.ndjson"


def run(name: str, size: int = 1) -> Record:
    """All that there is of a small run."""
    return {"run_id": name, "rows": [{"n": n, "text": f"é\n{name}", "none": None} for n in range(size)], "last": True}


def parts(name: str, count: int) -> list[Record]:
    """A run in several records."""
    return [{"run_id": name, "part": n, **({"last": True} if n == count - 1 else {})} for n in range(count)]


BATCHES = [[run("a"), run("b")], [run("c"), *parts("d", 3)], [run("e")]]


def write(path: Path, batches: list[list[Record]] = BATCHES) -> None:
    writer = ArchiveWriter(path, HEADER)
    for batch in batches:
        writer.keep(batch)
    writer.finish(complete=True, by_status={"completed": 5}, rows={"steps": 9})


def read(path: Path) -> list[Group]:
    with read_archive(path) as archive:
        return list(archive.groups())


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


# --- what is written


def test_what_went_in_comes_out(path: Path) -> None:
    write(path)
    assert read(path) == BATCHES
    found = survey(path)
    assert found.header == HEADER
    assert found.run_ids == ("a", "b", "c", "d", "e")
    assert (found.torn, found.unfinished, found.is_complete) == (False, (), True)
    assert found.manifest is not None
    assert found.manifest[:5] == (5, 7, 3, {"steps": 9}, {"completed": 5})


def test_the_lines(plain: Path) -> None:
    write(plain)
    lines = lines_of(plain)
    told = [json.loads(line) for line in lines]
    assert [next(iter(one)) for one in told] == [
        *("lens_archive", "record", "record", "batch"),
        *("record", "record", "record", "record", "batch", "record", "batch", "manifest"),
    ]
    assert told[0] == {
        "lens_archive": 1,
        "store": "sqlite:///ops.db",
        "driver": "sqlite",
        "made_at": "2026-11-21T07:42:00.000000Z",
        "audit_id": HEADER.audit_id,
        "command": ["lens", "prune", "--yes"],
        "cutoff": "2026-11-21T07:42:00.000000Z",
    }
    digests = [sha256(b"".join(part)).hexdigest() for part in (lines[1:3], lines[4:8], lines[9:10])]
    assert [one for one in told if "batch" in one] == [
        {"batch": 1, "runs": 2, "records": 2, "sha256": digests[0]},
        {"batch": 2, "runs": 2, "records": 4, "sha256": digests[1]},
        {"batch": 3, "runs": 1, "records": 1, "sha256": digests[2]},
    ]
    chained = sha256(lines[0]).hexdigest()
    for digest in digests:
        chained = sha256((chained + digest).encode()).hexdigest()
    manifest = told[-1]["manifest"]
    last = manifest.pop("sha256")
    assert manifest["complete"] is True
    rest = sha256(json.dumps(manifest, separators=(",", ":")).encode()).hexdigest()
    assert last == sha256((chained + rest).encode()).hexdigest()


def test_a_header_without_a_cutoff(plain: Path) -> None:
    ArchiveWriter(plain, HEADER._replace(cutoff=None)).close()
    assert "cutoff" not in json.loads(plain.read_bytes())
    assert survey(plain).header.cutoff is None


def test_only_the_owner_may_read_it(path: Path) -> None:
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_usual_programs_unpack_it(tmp_path: Path) -> None:
    packed, plain = tmp_path / "a.ndjson.gz", tmp_path / "a.ndjson"
    write(packed)
    write(plain)
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()


def test_the_form_is_known_by_the_content(path: Path, tmp_path: Path) -> None:
    write(path)
    path.rename(tmp_path / "renamed")
    assert read(tmp_path / "renamed") == BATCHES


def test_what_is_kept_can_be_read_at_once(path: Path) -> None:
    writer = ArchiveWriter(path, HEADER)
    assert survey(path).run_ids == ()
    for count, batch in enumerate(BATCHES, 1):
        writer.keep(batch)
        assert read(path) == BATCHES[:count]
    found = survey(path)
    assert (found.manifest, found.torn, found.is_complete) == (None, False, False)
    writer.close()


def test_a_run_in_several_batches_comes_out_in_one_group(path: Path) -> None:
    whole = parts("big", 4)
    write(path, [[run("a"), whole[0]], whole[1:3], [whole[3], run("b")]])
    assert read(path) == [[run("a")], [], [*whole, run("b")]]
    assert survey(path).run_ids == ("a", "big", "b")


def read_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Group]:
    """The groups, where a run of more than a few records is too large to be held."""
    monkeypatch.setattr(archive_reader, "_LONG", 200)
    with read_archive(path) as archive:
        yield from archive.groups()


def test_a_run_that_is_too_large_to_be_held_is_read_as_it_is_gone_through(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, longer = parts("big", 9), parts("bigger", 9)
    write(
        path, [[run("a"), *long[:5]], long[5:8], [long[8], run("b"), *longer[:6]], longer[6:8], [longer[8], run("c")]]
    )
    found: list[tuple[str, int]] = []
    for group in read_on(path, monkeypatch):
        if isinstance(group, LongRun):
            once = list(group)
            assert once == list(group) == {"big": long, "bigger": longer}[group.run_id], "also the second time"
            found.append((group.run_id, len(once)))
        else:
            found += [(record["run_id"], 1) for record in group]
    assert found == [("a", 1), ("big", 9), ("b", 1), ("bigger", 9), ("c", 1)]
    kept = []
    for group in read_on(path, monkeypatch):
        kept.append([] if isinstance(group, LongRun) else [record["run_id"] for record in group])
        assert next(iter(group))["run_id"], "who stops after the first record keeps nobody from the next group"
    assert kept == [["a"], [], ["b"], [], ["c"]], "one that nobody goes through is passed over"
    assert survey(path).run_ids == ("a", "big", "b", "bigger", "c")


@pytest.mark.parametrize("after", [[], [[run("b")]]])
def test_a_large_run_whose_end_never_came_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, after: list[list[Record]]
) -> None:
    write(path, [[run("a")], parts("cut", 9)[:7], *after])
    monkeypatch.setattr(archive_reader, "_LONG", 200)
    found = survey(path)
    assert (found.run_ids, found.unfinished) == (("a", "b")[: 1 + len(after)], ("cut",))


def test_a_run_whose_end_never_came_is_told_and_not_handed_out(path: Path) -> None:
    write(path, [[run("a"), *parts("cut", 3)[:2]], [run("b"), *parts("last", 2)[:1]]])
    assert read(path) == [[run("a")], [run("b")]]
    found = survey(path)
    assert (found.unfinished, found.is_complete) == (("cut", "last"), False)


def test_the_same_batch_again_is_not_written_twice(path: Path) -> None:
    """As when a transaction that could not be committed is tried again."""
    writer = ArchiveWriter(path, HEADER)
    for batch in (BATCHES[0], BATCHES[0], BATCHES[1], BATCHES[1]):
        writer.keep(batch)
    writer.finish(complete=True)
    assert read(path) == BATCHES[:2]


def test_an_empty_batch_is_none(path: Path) -> None:
    write(path, [[], [run("a")], []])
    assert read(path) == [[run("a")]]


def test_what_is_no_json_is_not_kept(path: Path) -> None:
    writer = ArchiveWriter(path, HEADER)
    writer.keep(BATCHES[0])
    with pytest.raises(OperationFailedError, match="nothing of this batch was deleted"):
        writer.keep([run("x"), {"run_id": "y", "value": object()}])
    writer.keep(BATCHES[1])
    writer.finish(complete=True)
    assert read(path) == BATCHES[:2]


def test_abandon_removes_what_nothing_came_into(path: Path) -> None:
    ArchiveWriter(path, HEADER).abandon()
    assert not path.exists()
    writer = ArchiveWriter(path, HEADER)
    writer.keep(BATCHES[0])
    writer.abandon()
    assert read(path) == BATCHES[:1]


# --- where it goes


def test_it_is_never_overwritten(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"mine")
    for make in (lambda: ArchiveWriter(path, HEADER), lambda: check_archive_path(path)):
        with pytest.raises(UsageError, match="already exists") as caught:
            make()
        assert caught.value.hint is not None
    assert path.read_bytes() == b"mine"


def test_a_link_to_nowhere_is_not_followed(plain: Path, tmp_path: Path) -> None:
    plain.symlink_to(tmp_path / "elsewhere.ndjson")
    with pytest.raises(UsageError, match="already exists"):
        ArchiveWriter(plain, HEADER)
    assert not (tmp_path / "elsewhere.ndjson").exists()


@pytest.mark.parametrize("check", [True, False])
def test_the_folder_has_to_be_there(tmp_path: Path, check: bool) -> None:
    path = tmp_path / "none" / "a.ndjson"
    with pytest.raises(UsageError, match="no such folder:") as caught:
        check_archive_path(path) if check else ArchiveWriter(path, HEADER)
    assert caught.value.hint == f"mkdir -p {tmp_path}/none"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.json", "a", "a.ndjson.bz2", ".ndjson"])
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    for make in (lambda: ArchiveWriter(tmp_path / name, HEADER), lambda: check_archive_path(tmp_path / name)):
        with pytest.raises(UsageError, match="not a file name of an archive"):
            make()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_gets_a_dated_name(tmp_path: Path) -> None:
    first = archive_path(tmp_path, NOW, stem="flujo_ops")
    assert first == tmp_path / "flujo_ops-20261121T074200Z.ndjson"
    first.touch()
    assert archive_path(f"{tmp_path}/", NOW, stem="flujo_ops").name == "flujo_ops-20261121T074200Z-2.ndjson"
    assert archive_path(tmp_path / "a.ndjson", NOW) == tmp_path / "a.ndjson"


def test_a_folder_of_the_settings_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "x" / "archive"
    assert archive_path(f"{folder}/", NOW).parent == folder
    with pytest.raises(UsageError, match="no such folder:"):
        archive_path(f"{folder}/", NOW, make=True)
    assert not folder.parent.exists(), "that may be a disk which is not mounted"
    folder.parent.mkdir()
    path = archive_path(f"{folder}/", NOW, make=True)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    write(path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        archive_path(f"{tmp_path}/file/below/", NOW, make=True)


NO_ZSTD = """
    import sys
    sys.modules["zstandard"] = None
    from pathlib import Path
    from flujo_lens.errors import MissingExtraError
    from flujo_lens.operations.archive import check_archive_path
    from flujo_lens.operations.archive_reader import survey

    for use, name in ((check_archive_path, "new.ndjson.zst"), (survey, "old.ndjson.zst")):
        try:
            use(Path(sys.argv[1]) / name)
        except MissingExtraError as error:
            print(error.hint)
"""


def test_without_the_extra(tmp_path: Path) -> None:
    pytest.importorskip("zstandard")
    write(tmp_path / "old.ndjson.zst")
    done = ran_anew(NO_ZSTD, str(tmp_path))
    assert done.stdout == f"{sys.executable} -m pip install 'zstandard>=0.22'\n" * 2
    assert MissingExtraError.code == "LENS-U7"


def ran_anew(program: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """What a new Python did, which has imported nothing."""
    command = [sys.executable, "-c", textwrap.dedent(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, **more)


AS_NOBODY = """
    import os, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from flujo_lens.errors import LensError
    from flujo_lens.operations.archive import ArchiveWriter, check_archive_path
    from flujo_lens.operations.archive_format import Header

    os.setgid(65534)
    os.setuid(65534)
    path = Path(sys.argv[1])
    for use in (check_archive_path, lambda p: ArchiveWriter(p, Header("s", "sqlite", datetime.now(UTC), "x"))):
        try:
            use(path)
        except LensError as error:
            print(error.code, error.message)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    done = ran_anew(AS_NOBODY, str(tmp_path / "a.ndjson"))
    code = ReadOnlyStoreError.code
    assert done.stdout.count(f"{code} cannot create {tmp_path}/a.ndjson: Permission denied; nothing was changed\n") == 2
    assert list(tmp_path.iterdir()) == []


# --- bytes that were touched


def test_wherever_it_is_cut_what_is_before_can_be_read(path: Path) -> None:
    write(path)
    whole = path.read_bytes()
    header = next(cut for cut in range(len(whole)) if is_archive(path, whole[:cut]))
    seen = set()
    for cut in range(header, len(whole)):
        path.write_bytes(whole[:cut])
        found = read(path)
        assert found == BATCHES[: len(found)]
        seen.add(len(found))
    assert seen == {0, 1, 2, 3}


def is_archive(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    try:
        read_archive(path)
    except CorruptArchiveError:
        raise
    except ArchiveError:
        return False
    return True


def test_a_cut_in_a_batch_is_told(plain: Path) -> None:
    write(plain)
    lines = lines_of(plain)
    for count, torn in ((4, False), (5, True), (8, True), (9, False)):
        plain.write_bytes(b"".join(lines[:count]))
        assert survey(plain).torn is torn
    plain.write_bytes(b"".join(lines[:4]) + b'{"rec')
    assert survey(plain).torn


def test_any_changed_byte_shows(path: Path) -> None:
    """At least, nothing that was changed is handed out."""
    write(path)
    whole = path.read_bytes()
    unseen = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        handed_out: list[Group] = []
        try:
            with read_archive(path) as archive:
                handed_out.extend(archive.groups())
            unseen += archive.manifest is not None and not archive.torn
        except ArchiveError:
            pass
        assert handed_out == BATCHES[: len(handed_out)], place
    assert unseen == 0 or path.suffix == ".gz", "only in gzip's own headers are bytes that mean nothing"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: lines[:1] + lines[4:], 6),
        (lambda lines: lines[:4] + lines[9:], 6),
        (lambda lines: lines[:2] + lines[3:], 3),
        (lambda lines: [*lines[:4], lines[9], lines[10], *lines[4:9], lines[11]], 6),
        (lambda lines: lines + lines[-1:], 13),
        (lambda lines: [*lines, b"[]\n"], 13),
        (lambda lines: [*lines[:4], b"{}\n", *lines[4:]], 5),
        (lambda lines: [lines[0].replace(b"prune", b"purge"), *lines[1:]], 12),
        (lambda lines: [*lines[:9], *lines[11:]], 10),
    ],
    ids=[
        "first batch",
        "second batch",
        "record",
        "order",
        "manifest twice",
        "behind it",
        "foreign",
        "header",
        "last",
    ],
)
def test_lines_that_were_removed_moved_or_added(plain: Path, change: Any, line: int) -> None:
    write(plain)
    plain.write_bytes(b"".join(change(lines_of(plain))))
    with pytest.raises(CorruptArchiveError) as caught:
        survey(plain)
    assert caught.value.details["line"] == line
    assert f"line {line} of the archive {plain}" in caught.value.message


def test_the_hint_rescues_what_is_before(plain: Path, tmp_path: Path) -> None:
    write(plain)
    plain.write_bytes(plain.read_bytes().replace(b'"run_id":"c"', b'"run_id":"x"'))
    with pytest.raises(CorruptArchiveError) as caught:
        survey(plain)
    assert caught.value.hint is not None
    assert "head -n 4 " in caught.value.hint
    rescued = tmp_path / "rescued.ndjson"
    rescued.write_bytes(b"".join(lines_of(plain)[:4]))
    assert survey(rescued).run_ids == ("a", "b")


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"{}\n", b"\x00" * 5000, b"SQLite format 3\x00", b'{"lens_archive":1}\n',
     b'{"lens_archive":"1"}\n', b'{"lens_archive":0}\n', b"\x1f\x8b\x08rubbish",
     b"\x28\xb5\x2f\xfdrubbish", gzip.compress(b"something else", mtime=0), b'{"lens_archive":1,"store":1}\n'],
)  # fmt: skip
def test_what_is_no_archive(plain: Path, content: bytes) -> None:
    plain.write_bytes(content)
    with pytest.raises(ArchiveError, match="is not an archive of runs") as caught:
        survey(plain)
    assert not isinstance(caught.value, CorruptArchiveError)


def test_an_archive_of_a_newer_version(plain: Path) -> None:
    plain.write_bytes(b'{"lens_archive":2,"something":"new"}\n')
    with pytest.raises(ArchiveError, match="of version 2") as caught:
        survey(plain)
    assert caught.value.hint == "pip install -U flujo-lens"


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo"):
        with pytest.raises(ArchiveError, match="cannot read the archive"):
            survey(place)
    with pytest.raises(UsageError, match=f"no such file: {tmp_path}/nothing"):
        survey(tmp_path / "nothing")


def test_no_more_than_a_batch_is_held(path: Path) -> None:
    batches = [[run(f"{number}-{each}", 200) for each in range(5)] for number in range(50)]
    write(path, batches)
    size = sum(len(json.dumps(batch)) for batch in batches)
    tracemalloc.start()
    with read_archive(path) as archive:
        assert sum(len(records) for records in archive.groups()) == 250
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 3


# --- full disks


def test_a_write_that_does_not_fit_is_taken_back(path: Path) -> None:
    rng = random.Random(1)
    batches = [[run(f"{n}-{rng.randbytes(3000).hex()}")] for n in range(4)]
    writer = ArchiveWriter(path, HEADER)
    writer.keep(batches[0])
    writer.keep(batches[1])
    before = path.read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limit[1]))
    try:
        with pytest.raises(OperationFailedError, match="nothing of this batch was deleted") as caught:
            writer.keep(batches[2])
        assert caught.value.hint is not None
        assert "free some space" in caught.value.hint
        with pytest.raises(OperationFailedError):
            writer.keep(batches[3])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before
    assert read(path) == batches[:2]
    writer.keep(batches[2])
    writer.finish(complete=False)
    assert read(path) == batches[:3]


def test_a_header_that_does_not_fit_leaves_nothing(path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limit[1]))
    try:
        with pytest.raises(OperationFailedError, match="cannot create"):
            ArchiveWriter(path, HEADER)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert not path.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("a disk can be made by root alone")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="a disk can be made by root alone")
def test_a_full_disk(small_disk: Path) -> None:
    rng = random.Random(2)
    writer = ArchiveWriter(small_disk / "a.ndjson", HEADER)
    kept: list[list[Record]] = []

    def fill() -> None:
        while True:
            batch = [run(rng.randbytes(10_000).hex(), 0)]
            writer.keep(batch)
            kept.append(batch)

    with pytest.raises(OperationFailedError, match="No space left"):
        fill()
    assert len(kept) > 5
    assert read(writer.path) == kept
    writer.abandon()
    assert read(writer.path) == kept


# --- death while writing


KEEP = """
    import random, sys
    from datetime import UTC, datetime
    from pathlib import Path
    from flujo_lens.operations.archive import ArchiveWriter
    from flujo_lens.operations.archive_format import Header

    rng = random.Random(3)
    writer = ArchiveWriter(Path(sys.argv[1]), Header("s", "sqlite", datetime.now(UTC), "x"))
    for number in range(10_000):
        size = rng.randrange(1, 60_000)
        writer.keep([{"run_id": f"{number}-{each}", "data": rng.randbytes(size).hex(), "last": True} for each in "ab"])
        print(number, flush=True)
"""


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_killed_while_it_writes(tmp_path: Path, suffix: str) -> None:
    """What was acknowledged can be read; what was not is no error."""
    if suffix == ".zst":
        pytest.importorskip("zstandard")
    rng = random.Random(4)
    for number in range(ROUNDS):
        path = tmp_path / f"{number}.ndjson{suffix}"
        acknowledged = killed_after(path, rng.randrange(1, 8), rng.random() * 0.01)
        found = survey(path)
        assert len(found.run_ids) >= 2 * acknowledged
        assert found.run_ids == tuple(f"{n}-{each}" for n in range(len(found.run_ids) // 2) for each in "ab")
        assert (found.manifest, found.unfinished) == (None, ())


def killed_after(path: Path, batches: int, pause: float) -> int:
    """Kill a writer a moment after it has written so many batches; how many it has told of."""
    with python("-c", textwrap.dedent(KEEP), path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(batches)]
        signal.sigtimedwait([], pause)
        process.kill()
        told += process.stdout.readlines()
    return len([line for line in told if line.endswith("\n")])
