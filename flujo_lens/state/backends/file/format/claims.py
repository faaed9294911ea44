"""Claims and manifests in a folder of JSON files: small files in the sub-folder of histories. All of it blocks.

``<hash>.claim`` is a claim, ``<hash>.manifest`` a manifest with its digest; the hash is that of the run's id, or of the
digest. Each is written whole or not at all. To whom a run belongs is decided under the lock of the sub-folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.backends.file.fs.atomic_write import drafted, read_file
from flujo_lens.state.claims import Claim, Holder, present

__all__ = ["beat", "get_manifest", "put_manifest", "read_claims", "release", "remove_claim", "take"]

_CLAIM, _MANIFEST = ".claim", ".manifest"
_READING = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW


def _claim_name(run_id: str) -> str:
    """The name of the file of a run's claim."""
    return _name(run_id, _CLAIM)


def _name(key: str, ending: str) -> str:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest() + ending


# --- under the lock


def take(histories: int, run_id: str, holder: Holder, lease: float) -> Claim:
    """Take a run that nobody has.

    Raises:
        RunHeldError: somebody has it.
    """
    now = present()
    found = _find(histories, run_id)
    if found is not None:
        found.check_free(now)
    return _write(histories, Claim.take(run_id, holder, lease, now))


def check(histories: int | None, claim: Claim) -> None:
    """Do nothing if the run's claim is this one.

    Raises:
        LostClaimError: it is not.
    """
    claim.check_held(None if histories is None else _find(histories, claim.run_id))


def beat(histories: int, claim: Claim) -> Claim:
    """Store that the holder of a claim, which was checked, gave a sign."""
    return _write(histories, claim.beaten())


def release(histories: int, claim: Claim) -> None:
    """Give a run free, if the claim on it is this one."""
    found = _find(histories, claim.run_id)
    if found is not None and found.token == claim.token:
        remove_claim(histories, claim.run_id)


def remove_claim(histories: int, run_id: str) -> None:
    """Remove the claim on a run, whoever has it; none is no error."""
    with suppress(FileNotFoundError):
        os.unlink(_claim_name(run_id), dir_fd=histories)


def put_manifest(histories: int, digest: str, body: bytes) -> None:
    """Store a manifest, unless there is one of this digest."""
    name = _name(digest, _MANIFEST)
    if _object(histories, name) is None:
        with drafted(histories, b'{"digest":' + safe_dumps(digest) + b',"manifest":' + body + b"}", name) as draft:
            draft.place(name)


def _write(histories: int, claim: Claim) -> Claim:
    name = _claim_name(claim.run_id)
    with drafted(histories, safe_dumps(claim.to_dict()), name) as draft:
        draft.place(name)
    return claim


# --- without it


def read_claims(histories: int, run_ids: Sequence[str] | None) -> dict[str, Claim]:
    """The stored claims (of these runs alone); each as it is when it is read."""
    found = (_claim(_object(histories, name)) for name in _claim_names(histories, run_ids))
    return {claim.run_id: claim for claim in found if claim is not None}


def get_manifest(histories: int, digest: str) -> dict[str, Any] | None:
    """The manifest of a digest; None if there is none."""
    found = (_object(histories, _name(digest, _MANIFEST)) or {}).get("manifest")
    return found if isinstance(found, dict) else None


def _claim_names(histories: int, run_ids: Sequence[str] | None) -> Iterator[str]:
    if run_ids is None:
        return (name for name in os.listdir(histories) if name.endswith(_CLAIM))
    return map(_claim_name, run_ids)


def _find(histories: int, run_id: str) -> Claim | None:
    return _claim(_object(histories, _claim_name(run_id)))


def _claim(stored: dict[str, Any] | None) -> Claim | None:
    with suppress(KeyError, TypeError, ValueError):
        return None if stored is None else Claim.from_dict(stored)
    return None


def _object(histories: int, name: str) -> dict[str, Any] | None:
    """The object in a file; None if there is no such file, or it is none that we wrote."""
    try:
        file = os.open(name, _READING, dir_fd=histories)
    except FileNotFoundError:
        return None
    try:
        found = safe_loads(read_file(file))
    except ValueError:
        return None
    finally:
        os.close(file)
    return found if isinstance(found, dict) else None
