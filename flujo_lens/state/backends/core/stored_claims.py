"""`StoredClaims`: claims on runs, manifests, and which run is bound to which: once, on any store of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.application_reads import ReadingBackend, empty_if_missing
from flujo_lens.state.backends.core.validation import asked_id, check_run_id, findable, findable_ids

if TYPE_CHECKING:
    from flujo_lens.state.backends.core.port import KeyValues, Space, ValueWork
    from flujo_lens.state.claims import Claim, Holder
    from flujo_lens.state.stripped import Stripped

T = TypeVar("T")


class StoredClaims(ReadingBackend):
    """The claims, heartbeats and cancellations of runs. Each method is one transaction of the store."""

    async def _read_values(self, work: ValueWork[T]) -> T:
        """As `flujo_lens.state.backends.core.port.Store.read`."""
        raise NotImplementedError

    async def _write_values(self, work: ValueWork[T], *, creates: bool = True, run_id: str | None = None) -> T:
        """As `flujo_lens.state.backends.core.port.Store.write`."""
        raise NotImplementedError

    async def _change_values(self, work: ValueWork[T], nothing: T, run_id: str | None = None) -> T:
        """A write that does not make a store where there is none."""
        try:
            return await self._write_values(work, creates=False, run_id=run_id)
        except StoreNotFoundError:
            return nothing

    async def _values(self, space: Space, keys: Sequence[str] | None = None) -> dict[str, bytes]:
        async def work(tx: KeyValues) -> dict[str, bytes]:
            return await tx.get(space, keys)

        return await self._read_values(work)

    async def claim_run(self, run_id: str, holder: Holder, lease: float) -> Claim:
        from flujo_lens.serialization import safe_dumps
        from flujo_lens.state.claims import Claim, check_lease, present

        check_run_id(run_id)
        check_lease(lease)

        async def work(tx: KeyValues) -> Claim:
            await tx.lock([run_id])
            now = present()
            found = claims_in(await tx.get("claim", [run_id])).get(run_id)
            if found is not None:
                found.check_free(now)
            claim = Claim.take(run_id, holder, lease, now)
            await tx.set("claim", run_id, safe_dumps(claim.to_dict()))
            return claim

        return await self._write_values(work, run_id=run_id)

    async def heartbeat(self, claim: Claim) -> Claim:
        async def work(tx: KeyValues) -> Claim | None:
            await tx.lock([claim.run_id])
            return await renew(tx, claim)

        renewed = await self._change_values(work, None, claim.run_id)
        if renewed is None:
            claim.check_held(None)
            raise AssertionError("there is no store, so no claim can be held")
        return renewed

    async def release_run(self, claim: Claim) -> None:
        async def work(tx: KeyValues) -> None:
            await tx.lock([claim.run_id])
            found = claims_in(await tx.get("claim", [claim.run_id])).get(claim.run_id)
            if found is not None and found.token == claim.token:
                await tx.set("claim", claim.run_id, None)

        await self._change_values(work, None, claim.run_id)

    @empty_if_missing(dict)
    async def read_claims(self, run_ids: Sequence[str] | None = None) -> Mapping[str, Claim]:
        return claims_in(await self._values("claim", None if run_ids is None else findable_ids(run_ids)))

    @empty_if_missing(dict)
    async def read_stripped(self, run_ids: Sequence[str]) -> Mapping[str, Stripped]:
        from flujo_lens.state.backends.core.strip_notes import notes_in

        notes = notes_in(await self._values("strip", findable_ids(run_ids)))
        runs = await self.read_summaries(list(notes)) if notes else ()
        return {run.run_id: notes[run.run_id] for run in runs if notes[run.run_id].is_of(run.updated_at)}

    async def put_manifest(self, digest: str, manifest: JSONObject) -> None:
        from flujo_lens.serialization import safe_dumps

        body = safe_dumps(manifest, sort_keys=True)

        async def work(tx: KeyValues) -> None:
            if not await tx.get("manifest", [digest]):
                await tx.set("manifest", digest, body)

        await self._write_values(work)

    @empty_if_missing(lambda: None)
    async def get_manifest(self, digest: str) -> JSONObject | None:
        """Return the manifest with this digest; None if there is none, or it cannot be read."""
        return manifest_in((await self._values("manifest", [digest])).get(digest))

    @empty_if_missing(lambda: None)
    async def manifest_of(self, run_id: str) -> str | None:
        sought = findable(asked_id(run_id))
        found = await self._values("binding", [sought])
        return found[sought].decode(errors="replace") if sought in found else None


async def renew(tx: KeyValues, claim: Claim) -> Claim:
    """Give a sign for a claim, if it is still held.

    Raises:
        LostClaimError: it is another's, or there is none.
    """
    from flujo_lens.serialization import safe_dumps

    claim.check_held(claims_in(await tx.get("claim", [claim.run_id])).get(claim.run_id))
    renewed = claim.beaten()
    await tx.set("claim", claim.run_id, safe_dumps(renewed.to_dict()))
    return renewed


def claims_in(values: Mapping[str, bytes]) -> dict[str, Claim]:
    """The claims of a space by run; one that cannot be read is left out."""
    from flujo_lens.state.claims import Claim

    claims = {}
    for run_id, data in values.items():
        try:
            claims[run_id] = Claim.from_dict(_loaded(data))
        except (KeyError, TypeError, ValueError):
            continue
    return claims


def holders_in(values: Mapping[str, bytes], now: datetime) -> dict[str, Holder]:
    """Who holds runs, by the claims in stored values; those that have ended hold none."""
    return {run_id: claim.holder for run_id, claim in claims_in(values).items() if not claim.has_ended(now)}


def manifest_in(data: bytes | None) -> JSONObject | None:
    """A stored manifest; None if there is none, or it cannot be read."""
    found = _loaded(data)
    return found if isinstance(found, dict) else None


def _loaded(data: bytes | None) -> Any:
    """A stored value; None if it is no JSON."""
    from flujo_lens.serialization import safe_loads

    try:
        return None if data is None else safe_loads(data)
    except (TypeError, ValueError):
        return None
