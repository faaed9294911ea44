"""What a runner needs of `SQLiteBackend`: claims, manifests, progress, and which runs could resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.application_reads import empty_if_missing
from flujo_lens.state.backends.core.validation import asked_id, check_run_id, findable
from flujo_lens.state.backends.sqlite.read_methods import SQLiteReads
from flujo_lens.state.views import RunFilter

if TYPE_CHECKING:
    from flujo_lens.state.backends.sqlite.writes.write_connection import Writer
    from flujo_lens.state.claims import Claim, Holder, Progress, ResumableGroup

__all__ = ["DurableRuns"]


class DurableRuns(SQLiteReads):
    """Claims and manifests in tables of our own (see `own`), on a store of any version, which is not migrated for them.

    Every writing method is one transaction and one hop to the thread that writes.
    """

    _migrate: bool

    @cached_property
    def _writer(self) -> Writer:
        raise NotImplementedError

    async def claim_run(self, run_id: str, holder: Holder, lease: float) -> Claim:
        """Take a run, by compare-and-set in one transaction; a file that is not there is made.

        Raises:
            RunHeldError: another claim has not ended.
        """
        from flujo_lens.state.backends.sqlite.writes import claims
        from flujo_lens.state.claims import check_lease

        checked, seconds = check_run_id(run_id), check_lease(lease)
        claim = await self._writer.write(lambda db: claims.take(db, checked, holder, seconds))
        assert claim is not None
        return claim

    async def heartbeat(self, claim: Claim) -> Claim:
        """Renew a claim.

        Raises:
            LostClaimError: it is not the run's any more.
        """
        from flujo_lens.state.backends.sqlite.writes import claims

        beaten = await self._writer.write(lambda db: claims.beat(db, claim), creates=False)
        if beaten is None:
            claim.check_held(None)
        assert beaten is not None
        return beaten

    async def release_run(self, claim: Claim) -> None:
        """Give a run free, if the claim on it is this one."""
        from flujo_lens.state.backends.sqlite.writes import claims

        await self._writer.write(lambda db: claims.release(db, claim), creates=False)

    @empty_if_missing(dict)
    async def read_claims(self, run_ids: Sequence[str] | None = None) -> Mapping[str, Claim]:
        """Return the stored claims by run."""
        from flujo_lens.state.backends.sqlite.writes import claims

        wanted = None if run_ids is None else [findable(asked_id(run_id)) for run_id in run_ids]
        return await self._read(lambda session: claims.read(session, wanted))

    async def put_manifest(self, digest: str, manifest: JSONObject) -> None:
        """Store a manifest, unless there is one of this digest."""
        from flujo_lens.state.backends.sqlite.writes import manifests

        values = manifests.manifest_values(digest, manifest)
        await self._writer.write(lambda db: manifests.put(db, values))

    @empty_if_missing(lambda: None)
    async def get_manifest(self, digest: str) -> JSONObject | None:
        """Return the manifest with this digest, or None."""
        from flujo_lens.state.backends.sqlite.writes import manifests

        return await self._read(lambda session: manifests.get(session, digest))

    @empty_if_missing(lambda: None)
    async def manifest_of(self, run_id: str) -> str | None:
        """Return the digest that a run is bound to, or None."""
        from flujo_lens.state.backends.sqlite.writes import manifests

        sought = findable(asked_id(run_id))
        return await self._read(lambda session: manifests.digest_of(session, sought))

    async def save_progress(self, progress: Progress) -> None:
        """Save all of it in one transaction and one hop; of a large state there is one copy less (see `saving`).

        Raises:
            LostClaimError: the claim is not held any more. Nothing was saved.
        """
        from flujo_lens.state.backends.sqlite.writes.progress import rows_of, save

        rows = rows_of(self._codec, progress)
        made = await self._writer.write(lambda db: save(db, rows, self._migrate), *rows.tables())
        if made:
            await self._thread.run(self._reader.close)

    async def group_resumable(self, wanted: RunFilter) -> Sequence[ResumableGroup]:
        """Return what could still resume; on a connection of its own, so that others need not wait."""
        from flujo_lens.state.backends.sqlite.reads.resumable import group_resumable

        async with self._beside() as reading:
            return await reading._read(lambda session: group_resumable(session, wanted))
