"""The conformance suite for state backends: does a driver keep what the contract says, and read it so?

For the author of a driver. Subclass `BackendContract` in a test file and say how a backend is made; every
``test_`` method is then collected by pytest (nothing here needs pytest: a plain loop can call them too)::

    import pytest
    from flujo_lens.testing.contract import BackendContract
    from acme.lens import AcmeBackend

    class TestAcme(BackendContract):
        @pytest.fixture(autouse=True)
        def _place(self, tmp_path):
            self.folder = tmp_path

        async def new_backend(self):
            return AcmeBackend(self.folder / "store")

        async def reopen(self):
            return AcmeBackend(self.folder / "store")

        async def new_backend_with(self, serializer_default):
            return AcmeBackend(self.folder / "store", serializer_default=serializer_default)

Of the hooks `new_backend` alone is needed; without one of the others (`reopen`, `new_backend_with`,
`new_sealed_backend`, `broken_backend`, `in_another_process`, `queries`) the tests that ask for it are skipped. Every
test has a store of its own, runs in an event loop of its own and shuts its backend down.

There are two halves, which can be taken alone. `WritingContract` saves, deletes and cleans up, by several at
once too, and looks at what comes back. `ReadingContract` fills the backend through the contract's own writing
methods (`save_state`, and `save_run_start`, `save_run_end`, `save_step_result`, `save_spans`,
`persist_evaluation`, `set_system_state` where the driver keeps history) with the runs of
`flujo_lens.testing.samples`, then compares what the reading methods give. What filters mean is decided by
`flujo_lens.state.filtering.matches`, as everywhere.

Not every driver does all. One that keeps states and nothing else sets ``states_only = True``; one of which some
methods are missing sets ``complete = False``, and a test that meets a `NotSupportedError` is skipped.
``rich_values = False`` is for one that takes JSON-ready states only, ``many_loops = False`` for one whose client
belongs to one event loop (most network clients: without the flag such a driver may wait for ever).

A deletion is killed on several of its lines, in processes of their own, where `in_another_process` says how they open
the store. That a save which was acknowledged survives the power, and one which was not leaves the state before, is for
the driver's own tests.
"""

from __future__ import annotations

from flujo_lens.testing.change_checks import ChangeChecks
from flujo_lens.testing.claim_checks import ClaimChecks
from flujo_lens.testing.cleanup_checks import CleanupChecks
from flujo_lens.testing.deletion_checks import DeletionChecks
from flujo_lens.testing.detail_checks import DetailChecks
from flujo_lens.testing.figure_checks import FigureChecks
from flujo_lens.testing.history_checks import HistoryChecks
from flujo_lens.testing.list_checks import ListChecks
from flujo_lens.testing.progress_checks import ProgressChecks
from flujo_lens.testing.robustness_checks import RobustnessChecks
from flujo_lens.testing.saving_checks import SavingChecks
from flujo_lens.testing.sharing_checks import SharingChecks
from flujo_lens.testing.state_checks import StateChecks
from flujo_lens.testing.strip_checks import StripChecks

__all__ = ["BackendContract", "ReadingContract", "WritingContract"]


class ReadingContract(StateChecks, ListChecks, DetailChecks, FigureChecks, ChangeChecks):
    """The tests of the reading half. Override `new_backend`, and the flags where the driver needs it.

    Attributes:
        states_only: The driver keeps no runs, steps, spans, evaluations or system state.
        complete: Every method of the contract is there; else tests that miss one are skipped.
    """


class WritingContract(
    SavingChecks, HistoryChecks, CleanupChecks, DeletionChecks, StripChecks, ClaimChecks, ProgressChecks, SharingChecks
):
    """The tests of the writing half. Override `new_backend`, and the other hooks and flags where there is cause.

    Attributes:
        states_only: The driver keeps no runs, steps, spans, evaluations or system state.
        complete: Every method of the contract is there; else tests that miss one are skipped.
        rich_values: States may hold what JSON does not have (times, sets, models); else they are JSON-ready.
        many_loops: One backend may be used from several threads, each with an event loop of its own.
    """


class BackendContract(WritingContract, ReadingContract, RobustnessChecks):
    """Both halves, and what has to hold when something goes wrong: what a driver has to pass to be one of those that
    ``lens`` works with in full."""
