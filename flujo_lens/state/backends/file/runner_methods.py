"""What a runner needs of `FileBackend`: claims, manifests and progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from flujo_lens.errors import StoreNotFoundError
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.core.rows import end_row, filled, run_row, span_rows, step_row
from flujo_lens.state.backends.core.validation import asked_id, check_run_id, check_state
from flujo_lens.state.backends.file.read_methods import FileReads

if TYPE_CHECKING:
    from flujo_lens.serialization.codec import StateCodec
    from flujo_lens.state.backends.file.writes import Changes
    from flujo_lens.state.claims import Claim, Holder, Progress

__all__ = ["DurableFiles"]

T = TypeVar("T")


class DurableFiles(FileReads):
    """Claims and manifests are files in the sub-folder of histories (see
    `flujo_lens.state.backends.file.format.claims`); to which manifest a run belongs is a line of its history."""

    @cached_property
    def _changes(self) -> Changes:
        raise NotImplementedError

    async def _write(self, work: Callable[[threading.Event], T], what: Hashable | None = None) -> T:
        """As `_run`; what is done to one thing (`what`) is done in the order of the calls."""
        raise NotImplementedError

    # --- claims

    async def claim_run(self, run_id: str, holder: Holder, lease: float) -> Claim:
        """Take a run, by compare-and-set under the locks of the folder; folders that are missing are made.

        Progress of a process that died before its state was saved is cut off from the history.

        Raises:
            RunHeldError: another claim has not ended.
        """
        from flujo_lens.state.backends.file.format import claims as file_claims
        from flujo_lens.state.backends.file.format import history as file_history
        from flujo_lens.state.claims import check_lease

        checked, seconds = check_run_id(run_id), check_lease(lease)

        def work(stop: threading.Event) -> Claim:
            with _locked(self._changes, stop) as (folder, histories):
                claim = file_claims.take(histories, checked, holder, seconds)
                file_history.cut_unfinished(folder, histories, checked)
                return claim

        return await self._write(work, run_id)

    async def heartbeat(self, claim: Claim) -> Claim:
        """Renew a claim.

        Raises:
            LostClaimError: it is not the run's any more.
        """
        from flujo_lens.state.backends.file.format import claims as file_claims

        def work(stop: threading.Event) -> Claim:
            with self._changes.both(stop) as (_, histories):
                file_claims.check(histories, claim)
                assert histories is not None
                return file_claims.beat(histories, claim)

        try:
            return await self._write(work, claim.run_id)
        except StoreNotFoundError:
            claim.check_held(None)
            raise

    async def release_run(self, claim: Claim) -> None:
        """Give a run free, if the claim on it is this one."""
        from flujo_lens.state.backends.file.format import claims as file_claims

        def work(stop: threading.Event) -> None:
            with self._changes.both(stop) as (_, histories):
                if histories is not None:
                    file_claims.release(histories, claim)

        try:
            await self._write(work, claim.run_id)
        except StoreNotFoundError:
            return

    async def read_claims(self, run_ids: Sequence[str] | None = None) -> Mapping[str, Claim]:
        """Return the stored claims by run."""
        from flujo_lens.state.backends.file.format import claims as file_claims

        wanted = None if run_ids is None else [asked_id(run_id) for run_id in run_ids]
        return await self._of_histories(lambda histories: file_claims.read_claims(histories, wanted), {})

    # --- manifests

    async def put_manifest(self, digest: str, manifest: JSONObject) -> None:
        """Store a manifest, unless there is one of this digest."""
        from flujo_lens.serialization import safe_dumps
        from flujo_lens.state.backends.file.format import claims as file_claims

        body = safe_dumps(manifest, sort_keys=True)

        def work(stop: threading.Event) -> None:
            with _locked(self._changes, stop) as (_, histories):
                file_claims.put_manifest(histories, digest, body)
                self._changes.settle(histories)

        await self._write(work)

    async def get_manifest(self, digest: str) -> JSONObject | None:
        """Return the manifest with this digest, or None."""
        from flujo_lens.state.backends.file.format import claims as file_claims

        return await self._of_histories(lambda histories: file_claims.get_manifest(histories, digest), None)

    async def manifest_of(self, run_id: str) -> str | None:
        """Return the digest that a run is bound to, or None."""
        from flujo_lens.state.backends.file.format.histories import history_of

        asked_id(run_id)
        history = await self._run(lambda stop: history_of(self._folder, run_id, stop))
        return None if history is None else history.manifest

    async def _of_histories(self, read: Callable[[int], T], nothing: T) -> T:
        def work(stop: threading.Event) -> T:
            with self._folder.reading() as reader:
                return nothing if reader.histories is None else read(reader.histories)

        try:
            return await self._run(work)
        except StoreNotFoundError:
            return nothing

    # --- progress

    async def save_progress(self, progress: Progress) -> None:
        """Save all of it under the locks of the folder: one line of the history, then the state.

        Those are two files. The line counts from the moment on in which the state is in its place, and else is cut off
        by the next who claims the run or saves its progress (see
        `flujo_lens.state.backends.file.format.progress_lines`). So a process that dies on any line leaves all of it or
        nothing. Only a `save_state` in between, by somebody who has not claimed the run, makes a line count whose state
        never came.

        Raises:
            LostClaimError: the claim is not held any more. Nothing was saved.
        """
        run_id = check_run_id(progress.run_id)
        state, lines = self._state_of(progress), _lines_of(self._folder.codec.real, progress)

        def work(stop: threading.Event) -> None:
            from flujo_lens.state.backends.file.format import claims as file_claims

            with _locked(self._changes, stop) as (folder, histories):
                if progress.claim is not None:
                    file_claims.check(histories, progress.claim)
                self._changes.save_both(folder, histories, run_id, state, lines)
                if progress.claim is not None:
                    file_claims.beat(histories, progress.claim)

        await self._write(work, run_id)

    def _state_of(self, progress: Progress) -> bytes | None:
        from flujo_lens.state.backends.file.format.document import encode_state

        if progress.state is None:
            return None
        check_state(progress.state)
        self._folder.codec.check(progress.state)
        return encode_state(self._folder.codec.real, progress.run_id, filled(progress.state, progress.run_id))


@contextmanager
def _locked(changes: Changes, stop: threading.Event) -> Iterator[tuple[int, int]]:
    """Descriptors of the folder and of its sub-folder, which are made if they are missing, locked."""
    with changes.restoring(stop, histories=True) as (folder, histories):
        assert histories is not None
        yield folder, histories


def _lines_of(codec: StateCodec, progress: Progress) -> list[bytes]:
    """The lines that progress adds to the history of its run."""
    from flujo_lens.state.backends.file.format.history_lines import line_of

    own = {"run_id": progress.run_id}
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if progress.run_start is not None:
        rows.append(("run_start", run_row({**progress.run_start, **own})))
    if progress.step is not None:
        rows.append(("step", step_row({**progress.step, **own})))
    if progress.spans:
        rows.append(("spans", {"spans": span_rows(list(progress.spans))}))
    if progress.run_end is not None:
        rows.append(("run_end", end_row(progress.run_end)))
    if progress.manifest is not None:
        rows.append(("manifest", {"manifest": progress.manifest}))
    return [line_of(codec, progress.run_id, kind, row) for kind, row in rows]
