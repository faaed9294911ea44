"""What a runner needs of `InMemoryBackend`: claims, manifests, and progress that is saved whole or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flujo_lens.serialization import safe_dumps, safe_loads
from flujo_lens.state.backends.arguments import asked_id, check_run_id
from flujo_lens.state.backends.base import JSONObject
from flujo_lens.state.backends.reading import ReadingBackend
from flujo_lens.state.claims import Claim, Holder, Progress, present

__all__ = ["DurableMemory", "KeptRun"]


@dataclass(slots=True)
class KeptRun:
    """What is kept of one run, serialized."""

    state: bytes | None = None
    row: bytes | None = None
    steps: list[bytes] = field(default_factory=list)
    spans: dict[str, bytes] = field(default_factory=dict)


class DurableMemory(ReadingBackend):
    """Claims and manifests in dicts, under the lock of everything else."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, KeptRun] = {}
        self._claims: dict[str, Claim] = {}
        self._manifests: dict[str, bytes] = {}
        self._manifest_of: dict[str, str] = {}

    def _forget(self, run_ids: Iterable[str]) -> None:
        """Let go of the claims and bindings of deleted runs."""
        for run_id in run_ids:
            self._claims.pop(run_id, None)
            self._manifest_of.pop(run_id, None)

    async def claim_run(self, run_id: str, holder: Holder, lease: float) -> Claim:
        """Take a run that nobody has."""
        with self._lock:
            now = present()
            claim = Claim.take(check_run_id(run_id), holder, lease, now)
            if run_id in self._claims:
                self._claims[run_id].check_free(now)
            self._claims[run_id] = claim
        return claim

    async def heartbeat(self, claim: Claim) -> Claim:
        """Renew a claim."""
        with self._lock:
            claim.check_held(self._claims.get(claim.run_id))
            self._claims[claim.run_id] = beaten = claim.beaten()
        return beaten

    async def release_run(self, claim: Claim) -> None:
        """Give a run free, if the claim on it is this one."""
        with self._lock:
            found = self._claims.get(claim.run_id)
            if found is not None and found.token == claim.token:
                del self._claims[claim.run_id]

    async def read_claims(self, run_ids: Sequence[str] | None = None) -> Mapping[str, Claim]:
        """Return the claims by run."""
        wanted = None if run_ids is None else {asked_id(run_id) for run_id in run_ids}
        with self._lock:
            return {run_id: claim for run_id, claim in self._claims.items() if wanted is None or run_id in wanted}

    async def put_manifest(self, digest: str, manifest: JSONObject) -> None:
        """Store a manifest, unless there is one of this digest."""
        body = safe_dumps(manifest)
        with self._lock:
            self._manifests.setdefault(digest, body)

    async def get_manifest(self, digest: str) -> JSONObject | None:
        """Return the manifest with this digest, or None."""
        with self._lock:
            body = self._manifests.get(digest)
        return None if body is None else safe_loads(body)

    async def manifest_of(self, run_id: str) -> str | None:
        """Return the digest that a run is bound to, or None."""
        with self._lock:
            return self._manifest_of.get(asked_id(run_id))

    async def save_progress(self, progress: Progress) -> None:
        """Save all of it under one lock. If a part cannot be saved, the run is what it was."""
        run_id = check_run_id(progress.run_id)
        with self._lock:
            kept = self._runs.get(run_id)
            before = kept and replace(kept, steps=list(kept.steps), spans=dict(kept.spans))
            try:
                await super().save_progress(progress)  # no part of it waits for anything
            except BaseException:
                self._restore(run_id, before)
                raise
            if progress.manifest is not None:
                self._manifest_of[run_id] = progress.manifest

    def _restore(self, run_id: str, before: KeptRun | None) -> None:
        if before is None:
            self._runs.pop(run_id, None)
        else:
            self._runs[run_id] = before
