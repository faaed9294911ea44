"""The conformance suite for state backends, reading half: does a driver read as the contract says?

For the author of a driver. Subclass `ReadingContract` in a test file and say how a backend is made; every
``test_`` method is then collected by pytest (nothing here needs pytest: a plain loop can call them too)::

    import pytest
    from flujo_lens.testing.contract import ReadingContract
    from acme.lens import AcmeBackend

    class TestAcme(ReadingContract):
        @pytest.fixture(autouse=True)
        def _place(self, tmp_path):
            self.folder = tmp_path

        async def new_backend(self):
            return AcmeBackend(self.folder / "store")

A test fills the backend through the contract's own writing methods (`save_state`, and `save_run_start`,
`save_run_end`, `save_step_result`, `save_spans`, `persist_evaluation`, `set_system_state` where the driver
keeps history) with the runs of `flujo_lens.testing.samples`, then compares what the reading methods give.
What filters mean is decided by `flujo_lens.state.matching.matches`, as everywhere.

A driver that keeps states and nothing else sets ``states_only = True``. One of which some methods are
missing sets ``complete = False``: a test that meets a `NotSupportedError` is then skipped.
"""

from __future__ import annotations

from flujo_lens.testing.detail_checks import DetailChecks
from flujo_lens.testing.figure_checks import FigureChecks
from flujo_lens.testing.list_checks import ListChecks
from flujo_lens.testing.state_checks import StateChecks

__all__ = ["ReadingContract"]


class ReadingContract(StateChecks, ListChecks, DetailChecks, FigureChecks):
    """The tests of the reading half. Override `new_backend`, and the flags where the driver needs it.

    Attributes:
        states_only: The driver keeps no runs, steps, spans, evaluations or system state.
        complete: Every method of the contract is there; else tests that miss one are skipped.
    """
