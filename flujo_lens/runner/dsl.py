"""The parts of a pipeline: `step`, `Step`, `Pipeline` and ``>>``.

A pipeline is a sequence of steps. The output of a step is the input of the next; a human step waits for a person,
whose answer is its output. This module runs no step, opens no store, and imports only the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, overload

from flujo_lens.errors import UsageError
from flujo_lens.runner.signature import Signature

Kind = Literal["step", "human"]
StepFunction = Callable[..., Any]
"""Takes the input, and the context of the run if it has a parameter annotated with a context model, or named
``context`` (see `flujo_lens.runner.signature`).

A coroutine function runs in the event loop, a plain function in a thread.
"""

STEP: Kind = "step"
HUMAN: Kind = "human"


@dataclass(frozen=True, eq=False)
class Step:
    """A step of a pipeline.

    Attributes:
        name: Its name, unique in the pipeline, by which a stored run finds its position.
        kind: ``step`` for a function, ``human`` for a question to a person.
        function: The function; None for a human step.
        aliases: Former names of the step in stored runs.
        retries: Maximum number of retries after a failure; 0 for none.
        backoff: Seconds before the first retry; doubled for each further one.
        timeout: Maximum seconds of an attempt; None for no limit.
        message_for_user: The question of a human step; None to show its input.
        input_schema: The type of the answer; None to accept any answer.
    """

    name: str
    kind: Kind = STEP
    function: StepFunction | None = None
    aliases: tuple[str, ...] = ()
    retries: int = 0
    backoff: float = 0.0
    timeout: float | None = None
    message_for_user: str | None = None
    input_schema: Any = None

    def __post_init__(self) -> None:
        if not self.name:
            raise UsageError("a step needs a name")
        if self.retries < 0 or self.backoff < 0 or (self.timeout is not None and self.timeout <= 0):
            raise UsageError(
                f'step "{self.name}": retries and backoff cannot be negative, and a timeout must be positive'
            )

    @classmethod
    def human_in_the_loop(
        cls,
        name: str,
        message_for_user: str | None = None,
        input_schema: Any = None,
        *,
        aliases: Iterable[str] = (),
    ) -> Step:
        """A step that pauses the run until a person answers.

        Args:
            name: The step's name.
            message_for_user: The question; by default, the input of the step.
            input_schema: A pydantic model or another type that pydantic can validate. The validated answer is the
                output of the step; without a schema, the answer is passed on unchanged.
            aliases: Former names of the step.
        """
        return cls(name, HUMAN, None, tuple(aliases), message_for_user=message_for_user, input_schema=input_schema)

    @property
    def output_type(self) -> Any:
        """The type of the output, from the return annotation or the input schema; None if unknown.

        An annotation that cannot be resolved counts as unknown.
        """
        if self.signature is None:
            return self.input_schema
        return _resolved_annotation(self.signature.annotations.get("return"))

    @property
    def input_type(self) -> Any:
        """The type of the input, from the annotation of its parameter; None if unknown."""
        name = None if self.signature is None else self.signature.input()
        return (
            None
            if name is None or self.signature is None
            else _resolved_annotation(self.signature.annotations.get(name))
        )

    @cached_property
    def signature(self) -> Signature | None:
        """The roles of the parameters; None for a human step."""
        return None if self.function is None else Signature.of(self.function)

    @property
    def wants_context(self) -> bool:
        """Whether the function has a parameter for the context."""
        return self.takes_context(None)

    def takes_context(self, model: type[Any] | None) -> bool:
        """Whether the function has a parameter for a context of the type `model`; None for any."""
        return self.signature is not None and self.signature.context(model) is not None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, for example in tests: without retries, timeout or state."""
        if self.function is None:
            raise UsageError(f'"{self.name}" is a human step and cannot be called')
        return self.function(*args, **kwargs)

    def __rshift__(self, other: Step | Pipeline) -> Pipeline:
        return Pipeline.from_step(self) >> other


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Steps in the order in which they run.

    Raises:
        UsageError: there is no step, or two steps share a name or alias.
    """

    steps: tuple[Step, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.steps:
            raise UsageError("a pipeline needs at least one step")
        owners: dict[str, int] = {}
        for index, each in enumerate(self.steps):
            for name in {each.name, *each.aliases}:
                if owners.setdefault(name, index) != index:
                    raise UsageError(
                        f'two steps of the pipeline are named "{name}"',
                        hint='rename one of them: @step(name="...")',
                    )

    @classmethod
    def from_step(cls, first: Step) -> Pipeline:
        """A pipeline of one step."""
        return cls((first,))

    def __rshift__(self, other: Step | Pipeline) -> Pipeline:
        return Pipeline(self.steps + (other.steps if isinstance(other, Pipeline) else (other,)))


def _resolved_annotation(annotation: Any) -> Any:
    """An annotation; None if it cannot be resolved."""
    return None if isinstance(annotation, str) else annotation


@overload
def step(function: StepFunction) -> Step: ...
@overload
def step(
    function: None = None,
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    retries: int = 0,
    backoff: float = 0.0,
    timeout: float | None = None,
) -> Callable[[StepFunction], Step]: ...
def step(
    function: StepFunction | None = None,
    *,
    name: str | None = None,
    aliases: Iterable[str] = (),
    retries: int = 0,
    backoff: float = 0.0,
    timeout: float | None = None,
) -> Step | Callable[[StepFunction], Step]:
    """Make a function a step: ``@step`` or ``@step(name=..., retries=...)``.

    The function takes the input of the step, the context of the run by a parameter annotated with a `PipelineContext`
    or a subclass of it (or named ``context``), both, or neither.

    The default name is that of the function; for the other parameters see `Step`. At its `timeout`, a coroutine
    function is cancelled; a plain function cannot be stopped: the step fails, and its thread runs on.
    """
    known = tuple(aliases)

    def made(body: StepFunction) -> Step:
        own = name or str(getattr(body, "__name__", type(body).__name__))
        return Step(own, STEP, body, known, retries=retries, backoff=backoff, timeout=timeout)

    return made if function is None else made(function)
