"""The positions and manifests of the resumable runs of a store: read from it, or saved in a file for a check without
access to the store.

The file has no data of runs: only names, versions, statuses, steps, shapes, counts, and one id per group.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from flujo_lens.errors import InflightError, NotSupportedError, OperationFailedError, UsageError
from flujo_lens.fs.atomic_write import replace_file, sync_folder
from flujo_lens.operations.input_file import no_such_file
from flujo_lens.operations.sidecar_files import check_link
from flujo_lens.state.backends.base import JSONObject, StateBackend
from flujo_lens.state.claims import ResumableGroup
from flujo_lens.state.manifests import is_readable
from flujo_lens.state.views import RunFilter

FORMAT = 1
_MARK, _DIGEST = "lens_inflight", "sha256"
_LARGEST = 1 << 28
_TEXT, _NUMBER, _NOTHING = (str,), (int,), type(None)
_KINDS: dict[str, tuple[type, ...]] = {
    "pipeline_name": _TEXT,
    "pipeline_version": _TEXT,
    "status": _TEXT,
    "step_index": (*_NUMBER, _NOTHING),
    "step_name": (*_TEXT, _NOTHING),
    "manifest": (*_TEXT, _NOTHING),
    "completed": (list,),
    "runs": _NUMBER,
    "sample_run_id": _TEXT,
}


class Inflight(NamedTuple):
    """The resumable runs of a store at one moment.

    Attributes:
        groups: The runs, grouped by shape and position.
        manifests: The shapes by digest, except those missing in the store.
        made_at: The time of reading, in UTC.
        store: The store, without a password.
    """

    groups: tuple[ResumableGroup, ...]
    manifests: Mapping[str, JSONObject]
    made_at: datetime
    store: str

    @property
    def runs(self) -> int:
        """Number of runs."""
        return sum(group.runs for group in self.groups)

    def only(self, wanted: RunFilter) -> Inflight:
        """The groups that match the status, pipeline and version of a filter.

        Raises:
            UsageError: the filter has a condition on single runs.
        """
        if wanted != RunFilter(wanted.statuses, wanted.pipeline, wanted.version, top_level=wanted.top_level):
            raise UsageError(
                "with --from, runs can be filtered only by --status, --pipeline and --version",
                hint="give the other filters to lens check --save",
            )
        kept = tuple(
            group
            for group in self.groups
            if (not wanted.statuses or group.status in wanted.statuses)
            and wanted.pipeline in (None, group.pipeline_name)
            and wanted.version in (None, group.pipeline_version)
        )
        return self._replace(groups=kept)


async def collect(backend: StateBackend, wanted: RunFilter, store: str, now: datetime) -> Inflight:
    """Read the resumable runs of a store. Writes nothing.

    Args:
        wanted: The filter; only resumable runs are read.
        store: The name of the store, without a password.
    """
    groups = tuple(await backend.group_resumable(wanted))
    found = {digest: await manifest(backend, digest) for digest in {group.manifest for group in groups} if digest}
    shapes = {digest: _without_questions(each) for digest, each in found.items() if each is not None}
    return Inflight(groups, shapes, now, store)


async def manifest(backend: StateBackend, digest: str) -> JSONObject | None:
    """A stored manifest; None if the driver has no manifests, or it is missing; empty if it cannot be read."""
    try:
        found = await backend.get_manifest(digest)
    except NotSupportedError:
        return None
    return found if found is None or is_readable(found) else {}


def _without_questions(shape: JSONObject) -> JSONObject:
    """A shape without the texts of its questions, which may contain private data."""
    steps = [{key: value for key, value in each.items() if key != "question"} for each in shape.get("steps", ())]
    return {**shape, "steps": steps} if steps else shape


# --- as a file


def save_inflight(path: Path, found: Inflight, *, force: bool = False) -> None:
    """Write a file atomically, readable only by its owner.

    Args:
        path: The file. A file written by this function is replaced.
        force: Whether to replace any other file, too.

    Raises:
        InflightError: another file exists, and was not replaced.
        OperationFailedError: it cannot be written.
    """
    try:
        check_link(path)
        place = path.resolve()
        if place.is_symlink():  # in a circle, from Python 3.13 on
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
        why = getattr(error, "strerror", None) or error
        raise OperationFailedError(f"cannot write {path}: {why}", hint="no file was left") from error
    if not force and (place.is_dir() or (place.exists() and not _is_ours(place))):
        raise InflightError.in_the_way(path)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        replace_file(place, _encoded(found), part)
        sync_folder(place.parent)
    except OSError as error:
        why = error.strerror or error
        raise OperationFailedError(f"cannot write {path}: {why}", hint="no file was left") from error


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _begins_as_ours(file.read(64))
    except OSError:
        return False


def _begins_as_ours(data: bytes) -> bool:
    return data[:64].lstrip(b"{ \n").startswith(f'"{_MARK}"'.encode())


def _encoded(found: Inflight) -> bytes:
    body = {
        "made_at": found.made_at.astimezone(UTC).isoformat(),
        "store": found.store,
        "runs": found.runs,
        "groups": [group._asdict() for group in found.groups],
        "manifests": dict(found.manifests),
    }
    whole = {_MARK: FORMAT, _DIGEST: _digest(body), **body}
    return json.dumps(whole, indent=1).encode("ascii") + b"\n"


def _digest(body: JSONObject) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode("ascii")).hexdigest()


def read_inflight(path: Path) -> Inflight:
    """Read a file of `save_inflight`.

    Raises:
        InflightError: it cannot be read, is a different file, or was changed.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError as error:
        raise no_such_file(path) from error
    except OSError as error:
        raise InflightError.unreadable(path, str(error.strerror or error)) from error
    return _decoded(path, data)


def _decoded(path: Path, data: bytes) -> Inflight:
    try:
        document = json.loads(data) if len(data) <= _LARGEST else None
    except (ValueError, RecursionError) as error:
        if _begins_as_ours(data):
            raise InflightError.unreadable(path, "it was changed or truncated") from error
        document = None
    if not isinstance(document, dict) or _MARK not in document:
        raise InflightError.unreadable(path, "it was not written by lens check --save")
    if document[_MARK] != FORMAT:
        why = f"it has format {document[_MARK]}, but this lens reads format {FORMAT}"
        raise InflightError.unreadable(path, why, "save and check with the same version of lens")
    body = {name: value for name, value in document.items() if name not in (_MARK, _DIGEST)}
    made = _made(body) if _digest(body) == document.get(_DIGEST) else None
    if made is None:
        raise InflightError.unreadable(path, "it was changed")
    return made


def _made(body: JSONObject) -> Inflight | None:
    """The runs of a body; None if it is malformed."""
    try:
        groups = tuple(map(_group, body["groups"]))
        made = Inflight(groups, dict(body["manifests"]), datetime.fromisoformat(body["made_at"]), str(body["store"]))
        is_whole = made.runs == body["runs"] and all(isinstance(each, dict) for each in made.manifests.values())
    except (KeyError, TypeError, ValueError):
        return None
    return made if is_whole and made.made_at.tzinfo is not None else None


def _group(row: Mapping[str, Any]) -> ResumableGroup:
    if row.keys() != _KINDS.keys() or not all(isinstance(row[name], kinds) for name, kinds in _KINDS.items()):
        raise TypeError("not a group")
    return ResumableGroup(**{**row, "completed": tuple(map(str, row["completed"]))})
