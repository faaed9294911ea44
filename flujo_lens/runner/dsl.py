"""What a pipeline is made of: `step`, `Step`, `Pipeline` and ``>>``.

A pipeline is a row of steps. The output of one is the input of the next; a human step waits for a person, whose
answer is its output. Nothing here runs a step, opens a store or imports more than the standard library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, overload

from flujo_lens.errors import UsageError
from flujo_lens.runner.signature import Signature

__all__ = ["HUMAN", "STEP", "Kind", "Pipeline", "Step", "StepFunction", "step"]

Kind = Literal["step", "human"]
StepFunction = Callable[..., Any]
"""Takes its input, and the run's context if it has a parameter for it: one that is annotated with a type of contexts,
or is called ``context`` (see `flujo_lens.runner.signature`).

A coroutine function runs in the event loop, a plain one in a thread.
"""

STEP: Kind = "step"
HUMAN: Kind = "human"


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a pipeline.

    Attributes:
        name: By this a stored run finds its place again; unique in its pipeline.
        kind: ``step`` for a function, ``human`` for a question to a person.
        function: What a step runs; None for a human step.
        aliases: Names that the step had before, under which stored runs may know it.
        retries: How often it is tried again after a failure; 0 for never.
        backoff: Seconds before the first retry; each further wait is twice the one before.
        timeout: Seconds that one try may take; None for no end.
        message_for_user: What a human step asks; None asks with its input.
        input_schema: The type that the answer of a person is checked against; None takes any answer.
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
            message_for_user: What is asked; without it the step's input is shown.
            input_schema: A pydantic model, or any type that pydantic can check the answer against. Its checked
                value is the step's output; without it the answer is passed on as it came.
            aliases: Names that the step had before.
        """
        return cls(name, HUMAN, None, tuple(aliases), message_for_user=message_for_user, input_schema=input_schema)

    @property
    def output_type(self) -> Any:
        """The type of the output, as the function's return annotation or the input schema says; None if neither does.

        An annotation that names what cannot be found is as none.
        """
        if self.signature is None:
            return self.input_schema
        return _told(self.signature.annotations.get("return"))

    @property
    def input_type(self) -> Any:
        """The type of the input, as the annotation of the parameter that takes it says; None if it does not."""
        name = None if self.signature is None else self.signature.input()
        return None if name is None or self.signature is None else _told(self.signature.annotations.get(name))

    @cached_property
    def signature(self) -> Signature | None:
        """Which parameter takes what; None for a human step."""
        return None if self.function is None else Signature.of(self.function)

    @property
    def wants_context(self) -> bool:
        """Whether the function has a parameter for the context."""
        return self.takes_context(None)

    def takes_context(self, model: type[Any] | None) -> bool:
        """Whether the function has a parameter for a context of the type `model`; None for any."""
        return self.signature is not None and self.signature.context(model) is not None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself, as its tests do: no retries, no timeout, no state."""
        if self.function is None:
            raise UsageError(f'"{self.name}" is a question to a person, which no program can call')
        return self.function(*args, **kwargs)

    def __rshift__(self, other: Step | Pipeline) -> Pipeline:
        return Pipeline.from_step(self) >> other


@dataclass(frozen=True, eq=False)
class Pipeline:
    """Steps in the order in which they run.

    Raises:
        UsageError: there is no step, or a name or alias belongs to two of them.
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
                        f'two steps of one pipeline are known as "{name}"',
                        hint='give one of them another name: @step(name="...")',
                    )

    @classmethod
    def from_step(cls, first: Step) -> Pipeline:
        """A pipeline of one step."""
        return cls((first,))

    def __rshift__(self, other: Step | Pipeline) -> Pipeline:
        return Pipeline(self.steps + (other.steps if isinstance(other, Pipeline) else (other,)))


def _told(annotation: Any) -> Any:
    """An annotation; None for one that names what cannot be found."""
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
    """Make a step of a function: ``@step`` or ``@step(name=..., retries=...)``.

    The step is called as its function unless `name` says otherwise; the rest is as in `Step`. A plain function that
    is over its `timeout` cannot be stopped: the step has failed, and its thread works on until the function returns.
    A coroutine function is cancelled.
    """
    known = tuple(aliases)

    def made(body: StepFunction) -> Step:
        own = name or str(getattr(body, "__name__", type(body).__name__))
        return Step(own, STEP, body, known, retries=retries, backoff=backoff, timeout=timeout)

    return made if function is None else made(function)
