"""``lens import``: what travelled, was packed anew, joined, cut off or is something else; and how much may come out."""

from __future__ import annotations

import gzip
import io
import json
import os
import shlex
import sqlite3
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard
from cleaning import rows
from support import Lens, tree
from test_undo_command import RUNS, everything, take

from flujo_lens.errors import ArchiveError
from flujo_lens.operations.archive import ArchiveWriter
from flujo_lens.operations.archive_compression import Limits
from flujo_lens.operations.archive_format import Header
from flujo_lens.operations.archive_reader import read_archive, survey


@pytest.fixture
def taken(lens: Lens) -> Lens:
    """A store that three runs were taken from, into ``a.ndjson``."""
    take(lens, archive="a.ndjson")
    return lens


def archive(lens: Lens, name: str = "a.ndjson") -> bytes:
    return (lens.cwd / name).read_bytes()


def frames(data: bytes, size: int = 1000) -> bytes:
    """As ``zstd -T`` and pzstd split: frames that end in the middle of lines, behind one that holds nothing."""
    pack = zstandard.ZstdCompressor().compress
    parts = (data[at : at + size] for at in range(0, len(data), size))
    return b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + b"".join(map(pack, parts))


def members(data: bytes, size: int = 1000) -> bytes:
    """As pigz and bgzip split, with an empty member at the end."""
    return b"".join(gzip.compress(data[at : at + size]) for at in range(0, len(data), size)) + gzip.compress(b"")


TRAVELS: dict[str, Callable[[bytes], bytes]] = {
    "a blank last line": lambda data: data + b"\n",
    "blank lines": lambda data: b"\n \n" + data.replace(b"\n", b"\n\n\t\r\n"),
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "BOM": lambda data: b"\xef\xbb\xbf" + data,
    "BOM, CRLF and no end": lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n").rstrip(),
    "no final newline": lambda data: data.rstrip(b"\n"),
    "gzip": gzip.compress,
    "gzip, best": lambda data: gzip.compress(data, 9),
    "gzip members": members,
    "gzip and zeros": lambda data: gzip.compress(data) + bytes(5000),
    "zstd": zstandard.ZstdCompressor(19).compress,
    "zstd with threads": zstandard.ZstdCompressor(threads=2).compress,
    "zstd frames": frames,
    "zstd without size": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
    "gzip and a line's end": lambda data: gzip.compress(data) + b"\n",
    "written by Python": lambda data: b"".join(
        json.dumps(json.loads(line)).encode() + b"\n" for line in data.splitlines()
    ),
    "gzip, blank line, CRLF": lambda data: gzip.compress(data.replace(b"\n", b"\r\n") + b"\r\n"),
}


@pytest.mark.parametrize("how", TRAVELS)
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_it_is_taken_as_it_comes(taken: Lens, how: str, by: str) -> None:
    """Whatever its name says."""
    data = TRAVELS[how](archive(taken))
    (taken.cwd / "b.txt").write_bytes(data)
    line, stdin = ("import b.txt --yes -o json", b"") if by == "file" else ("import - --yes -o json", data)
    done = taken(line, stdin=stdin)
    assert (done.code, done.err) == (0, "")
    assert (done.json["done"], done.json["complete"]) == (3, True)
    assert set(RUNS) <= set(taken("list --all -o id").lines)


def test_programs_that_pack_anew(taken: Lens) -> None:
    before = (taken.cwd / "a.ndjson").read_bytes()
    for program in ("gzip -9 -c", "pigz -c", "zstd -q -c", "zstd -q -T2 --long=27 -c", "zstd -q -19 -c", "bgzip -c"):
        if subprocess.run(["which", program.split()[0]], capture_output=True).returncode:
            continue
        packed = subprocess.run(program.split(), input=before, capture_output=True, check=True).stdout
        (taken.cwd / "b").write_bytes(packed)
        assert survey(taken.cwd / "b").is_complete, program


def test_joined_archives(taken: Lens) -> None:
    """``cat a b``, whatever each of them is."""
    take(taken, "cancelled-001", archive="b.ndjson", audit_id="20261120T031108000000-0a0b0c0e")
    plain = archive(taken) + b"\n" + archive(taken, "b.ndjson")
    (taken.cwd / "plain.ndjson").write_bytes(plain)
    (taken.cwd / "gzip.gz").write_bytes(gzip.compress(archive(taken)) + gzip.compress(archive(taken, "b.ndjson")))
    for name in ("plain.ndjson", "gzip.gz"):
        found = survey(taken.cwd / name)
        assert (len(found.run_ids), found.is_complete, len(found.headers)) == (4, True, 2)
    done = taken("import plain.ndjson --yes -o json")
    assert (done.code, done.json["done"], done.json["complete"]) == (0, 4, True)


def test_the_same_run_in_joined_archives_comes_as_it_was_last(taken: Lens) -> None:
    assert taken("import a.ndjson --yes").code == 0
    with closing(sqlite3.connect(taken.cwd / "flujo_ops.db")) as db, db:
        db.execute("UPDATE runs SET pipeline_name = 'later' WHERE run_id = 'plain-001'")
    before = rows(taken.cwd / "flujo_ops.db")
    take(taken, "plain-001", archive="b.ndjson")
    (taken.cwd / "both.ndjson").write_bytes(archive(taken) + archive(taken, "b.ndjson"))
    done = taken("import both.ndjson --yes -o json")
    assert (done.code, done.json["done"], done.json["skipped"]) == (6, 1, 2)
    assert rows(taken.cwd / "flujo_ops.db") == before


def test_one_that_was_stopped_before_another(taken: Lens) -> None:
    """In the middle of a line."""
    cut = archive(taken)[:-300]
    (taken.cwd / "b.ndjson").write_bytes(cut + archive(taken))
    found = survey(taken.cwd / "b.ndjson")
    assert (set(found.run_ids), found.torn, found.is_complete) == (set(RUNS), True, False)


def test_another_kind_among_them(taken: Lens) -> None:
    other = archive(taken).replace(b'"driver":"sqlite"', b'"driver":"files"')
    with_digest = other.splitlines(keepends=True)[0]
    (taken.cwd / "b.ndjson").write_bytes(archive(taken) + with_digest)
    refused = taken("import b.ndjson --yes -o json")
    assert (refused.code, refused.error["code"]) == (5, "LENS-T1")
    assert "of the driver files" in refused.error["message"]


# --- cut off


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd"])
def test_what_is_cut_off_says_so(taken: Lens, form: str) -> None:
    """Wherever that is: never that it is empty, or no archive; and nothing is half imported."""
    pack = {"plain": bytes, "gzip": gzip.compress, "zstd": zstandard.ZstdCompressor(19).compress}[form]
    data = pack(archive(taken))
    whole = taken.cwd / "cut.ndjson"
    for size in (*range(1, 40, 5), 100, 200, len(data) // 3, len(data) // 2, len(data) - 30):
        whole.write_bytes(data[:size])
        done = taken("import cut.ndjson --dry-run -o json")
        words = done.error["message"] if done.code else done.err
        assert "truncated" in words, (size, done.code, words)
        assert done.code in (0, 5)
        if not done.code:
            assert (done.json["complete"], done.json["left"] > 0) == (False, True)


def test_empty_is_empty(taken: Lens) -> None:
    for data in (b"", b"\n\n", gzip.compress(b""), zstandard.compress(b""), b"\xef\xbb\xbf"):
        (taken.cwd / "b.ndjson").write_bytes(data)
        refused = taken("import b.ndjson --yes -o json")
        assert (refused.code, "it is empty" in refused.error["message"]) == (5, True)


# --- the advice


@pytest.mark.parametrize("name", ["a.ndjson", "a b'c.ndjson", "a.ndjson.gz", "a.ndjson.zst"])
def test_the_advice_can_be_typed(taken: Lens, name: str) -> None:
    """Of an archive with a manifest whose third run was changed: the first two come back."""
    lines = archive(taken).splitlines(keepends=True)
    batches = _split(taken, lines)
    damaged = batches.replace(b'"run_id":"plain-001"', b'"run_id":"plain-002"', 1)
    pack = {".gz": gzip.compress, "zst": zstandard.compress}.get(name[-3:], bytes)
    (taken.cwd / name).write_bytes(pack(damaged))
    refused = taken(*shlex.split(f"import {shlex.quote(name)} --yes -s flujo_ops.db -o json"))
    assert (refused.code, refused.error["code"]) == (5, "LENS-T2")
    command = refused.error["hint"].partition(": ")[2]
    first, separator, last = command.rpartition(" | lens ")
    assert separator
    assert "--store flujo_ops.db" in last
    data = subprocess.run(first, shell=True, capture_output=True, check=True, cwd=taken.cwd).stdout
    assert taken(*shlex.split(last), "--yes", stdin=data).code == 0
    there = set(taken("list --all -o id").lines)
    assert {run_id in there for run_id in RUNS if run_id != "plain-001"} == {True}
    assert "plain-001" not in there


def _split(lens: Lens, lines: list[bytes]) -> bytes:
    """The archive again, with a batch a run, and plain-001 last."""
    kept: dict[str, list[dict[str, object]]] = {}
    for line in lines:
        if line.startswith(b'{"record":'):
            record = json.loads(line)["record"]
            kept.setdefault(record["run_id"], []).append(record)
    with read_archive(lens.cwd / "a.ndjson") as found:
        writer = ArchiveWriter(lens.cwd / "split.ndjson", Header(*found.header))
    for run_id in sorted(kept, key=lambda one: one == "plain-001"):
        writer.keep(kept[run_id])
    writer.finish(complete=True)
    return archive(lens, "split.ndjson")


# --- something else


def _tar(data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        info = tarfile.TarInfo("a.ndjson")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def _zip(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        packed.writestr("a.ndjson", data)
    return made.getvalue()


OTHERS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a tar": (_tar, "a tar file"),
    "a tar in gzip": (lambda data: gzip.compress(_tar(data)), "a tar file"),
    "a tar in zstd": (lambda data: zstandard.compress(_tar(data)), "a tar file"),
    "a zip": (_zip, "a zip file"),
    "xz": (lambda data: b"\xfd7zXZ\x00" + data, "compressed by xz"),
    "bzip2": (lambda data: b"BZh9" + data, "compressed by bzip2"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "UTF-16"),
    "a list of runs": (lambda _: b'{"run_id":"a","status":"failed"}\n', "a list of runs"),
    "JSON": (lambda _: b"[1, 2]\n", "its first line is JSON, but not a header"),
    "lines of JSON": (
        lambda data: json.dumps(json.loads(data.splitlines()[0]), indent=1).encode(),
        "over several lines",
    ),
    "a page": (lambda _: b"<!DOCTYPE html><title>Log in</title>", "HTML or XML"),
    "prose": (lambda _: b"Dear reader,\n", "does not start with a header"),
    "no header": (lambda data: data.partition(b"\n")[2], "first line is missing"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("by", ["file", "stdin"])
def test_other_files_are_named(taken: Lens, what: str, by: str) -> None:
    make, words = OTHERS[what]
    data = make(archive(taken))
    (taken.cwd / "b.ndjson").write_bytes(data)
    before = tree(taken.cwd)
    name, stdin = ("b.ndjson", b"") if by == "file" else ("-", data)
    refused = taken(f"import {name} --yes -o json", stdin=stdin)
    assert (refused.code, refused.error["code"]) == (5, "LENS-T1")
    assert words in refused.error["message"]
    assert tree(taken.cwd) == before


def test_a_store_a_folder_and_a_pipe(taken: Lens) -> None:
    os.mkfifo(taken.cwd / "fifo")
    for name, words in (
        ("flujo_ops.db", "an SQLite database"),
        (".", "it is a folder"),
        ("fifo", "it is a pipe"),
        ("/dev/null", "not a regular file"),
    ):
        refused = taken(f"import {name} --yes -o json")
        assert (refused.code, words in refused.error["message"]) == (5, True), name
        assert refused.error["hint"]


# --- stdin


def test_stdin_is_not_read_without_a_yes(taken: Lens) -> None:
    refused = taken("import - -o json", stdin=archive(taken))
    assert (refused.code, refused.error["code"]) == (2, "LENS-U1")
    assert taken("import - --dry-run -o json", stdin=archive(taken)).json["left"] == 3


def test_by_a_real_pipe_and_a_real_file(taken: Lens) -> None:
    before = tree(taken.cwd)
    with (
        open(taken.cwd / "a.ndjson", "rb") as file,
        taken.start(
            "import", "-", "--dry-run", "-o", "id", stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process,
    ):
        assert sorted(process.communicate()[0].decode().split()) == sorted(RUNS)
    packed = gzip.compress(archive(taken))
    with taken.start(
        "import", "-", "--dry-run", "-o", "id",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert sorted(process.communicate(packed)[0].decode().split()) == sorted(RUNS)
    assert tree(taken.cwd) == before


def test_no_room_for_what_comes_by_stdin(taken: Lens, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    refused = taken("import - --yes -o json", stdin=archive(taken))
    assert refused.code == 1
    assert "TMPDIR" in refused.error["hint"]


# --- how much may come out


def test_a_long_line(taken: Lens) -> None:
    refused = taken("import a.ndjson --yes --max-record 1K -o json")
    assert (refused.code, refused.error["option"]) == (5, "--max-record")
    assert "line 2 is longer than 1 KiB" in refused.error["message"]
    assert taken("import a.ndjson --yes --max-record 1M").code == 0


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_what_unpacks_to_too_much(taken: Lens, form: str) -> None:
    """Blank lines of a thousand times the bytes that hold them: no more of them is read than was allowed."""
    pack = {"gzip": gzip.compress, "zstd": zstandard.compress}[form]
    (taken.cwd / "b.ndjson").write_bytes(pack(archive(taken) + b"\n" * 300_000))
    refused = taken("import b.ndjson --yes --max-unpacked 256K -o json")
    assert (refused.code, refused.error["option"]) == (5, "--max-unpacked")
    assert "unpack to more than 256 KiB" in refused.error["message"]
    assert "--max-unpacked SIZE" in refused.error["hint"]
    assert taken("import b.ndjson --yes").code == 0


def test_a_batch_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    header = b'{"lens_archive":1,"store":"s","driver":"x","made_at":"2026-11-21T07:42Z","audit_id":"","command":[]}\n'
    path.write_bytes(header + b'{"record":{"run_id":"a"}}\n' * 1000)
    with pytest.raises(ArchiveError, match="takes more than 10 KiB"):
        survey(path, Limits(batch=10 << 10))
    assert survey(path).torn


def test_deep_json_is_damage(taken: Lens) -> None:
    """As deep as a reader that calls itself would not survive."""
    deep = b'{"record":{"run_id":"x","last":true,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n"
    first = archive(taken).partition(b"\n")[0] + b"\n"
    batch = b'{"batch":1,"runs":1,"records":1,"sha256":"%s"}\n' % sha256(deep).hexdigest().encode()
    (taken.cwd / "b.ndjson").write_bytes(first + deep + batch)
    refused = taken("import b.ndjson --yes -o json")
    assert (refused.code, refused.error["code"]) == (5, "LENS-T2")


@pytest.mark.parametrize("size", ["", "0", "x", "1.5G", "-1", "5X"])
def test_a_size_that_is_none(taken: Lens, size: str) -> None:
    refused = taken("import", "a.ndjson", "--max-unpacked", size, "-o", "json")
    assert (refused.code, "--max-unpacked takes" in refused.error["hint"]) == (2, True)
    assert everything(taken)
