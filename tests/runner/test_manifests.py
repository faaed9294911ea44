"""Types in words and manifests: the same for the same shape, in every process and under every Python."""

from __future__ import annotations

import os
import subprocess
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    Optional,
    TypedDict,
    TypeVar,
    Union,
)

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from flujo_lens.runner.dsl import Pipeline, Step, step
from flujo_lens.runner.manifests import digest_of, manifest_of
from flujo_lens.runner.type_compatibility import Fit, Fitting, Node, parse
from flujo_lens.runner.type_descriptions import Shapes

ROOT = Path(__file__).resolve().parent.parent.parent
T = TypeVar("T")
UserId = NewType("UserId", int)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Line(BaseModel):
    sku: str
    count: int = 1


class Order(BaseModel):
    lines: list[Line]
    colour: Colour | None = None
    parent: Optional[Order] = None  # noqa: UP045


@dataclass
class Point:
    x: int
    tags: list[str] = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    inside: T


class Pair(NamedTuple):
    one: int
    two: str = ""


class Movie(TypedDict, total=False):
    title: str


def named(hint: Any) -> str:
    return Shapes().name(hint)


# --- types in words


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, "int"),
        (None, "None"),
        (type(None), "None"),
        (Any, "Any"),
        (object, "Any"),
        (list[int], "list[int]"),
        (typing.List[int], "list[int]"),  # noqa: UP006
        (list, "list"),
        (typing.List, "list"),  # noqa: UP006
        (typing.Dict[str, typing.List[int]], "dict[str, list[int]]"),  # noqa: UP006
        (typing.Tuple[int, ...], "tuple[int, ...]"),  # noqa: UP006
        (Sequence[int], "Sequence[int]"),
        (Callable[[int], str], "Callable"),
        (Optional[int], "int | None"),  # noqa: UP045
        (int | None, "int | None"),
        (None | int, "int | None"),
        (Union[str, int, None], "int | str | None"),  # noqa: UP007
        (Optional[Union[str, list[int]]], "list[int] | str | None"),  # noqa: UP007, UP045
        (int | Any, "Any"),
        (Literal["b", "a"], 'Literal["a", "b"]'),
        (Literal[1, None, True], "Literal[1, null, true]"),
        (Literal[Colour.RED], "Literal[Colour.RED]"),
        (Annotated[int, "positive"], "int"),
        (UserId, "int"),
        (T, "Any"),
        (datetime, "datetime"),
        (Decimal, "Decimal"),
        (Path, "Path"),
        ("Later", "Later"),
        (list["Later"], "list[Later]"),  # type: ignore[name-defined]  # noqa: F821
        (Order, "Order"),
        (list[Order], "list[Order]"),
        (Box[int], "Box"),
    ],
)
def test_a_type_in_words(hint: Any, words: str) -> None:
    assert named(hint) == words


def test_what_a_class_is_made_of() -> None:
    shapes = Shapes()
    assert [shapes.name(hint) for hint in (Order, Point, Pair, Movie, Level)] == [
        "Order",
        "Point",
        "Pair",
        "Movie",
        "Level",
    ]
    assert shapes.table == {
        "Order": {
            "kind": "model",
            "fields": {
                "lines": {"type": "list[Line]", "required": True},
                "colour": {"type": "Colour | None", "required": False},
                "parent": {"type": "Order | None", "required": False},
            },
        },
        "Line": {
            "kind": "model",
            "fields": {"sku": {"type": "str", "required": True}, "count": {"type": "int", "required": False}},
        },
        "Colour": {"kind": "enum", "members": {"RED": "red", "BLUE": "blue"}},
        "Point": {
            "kind": "dataclass",
            "fields": {"x": {"type": "int", "required": True}, "tags": {"type": "list[str]", "required": False}},
        },
        "Pair": {
            "kind": "named tuple",
            "fields": {"one": {"type": "int", "required": True}, "two": {"type": "str", "required": False}},
        },
        "Movie": {"kind": "typed dict", "fields": {"title": {"type": "str", "required": False}}},
        "Level": {"kind": "enum", "members": {"LOW": 1}},
    }


def test_two_classes_of_one_name_are_told_apart() -> None:
    def another() -> type:
        class Line(BaseModel):
            total: float

        return Line

    shapes = Shapes()
    assert [shapes.name(Line), shapes.name(another()), shapes.name(Line)] == ["Line", "Line~2", "Line"]
    assert list(shapes.table["Line~2"]["fields"]) == ["total"]


def test_a_generic_class_is_named_by_what_it_holds() -> None:
    shapes = Shapes()
    assert [shapes.name(Box[int]), shapes.name(Box[str]), shapes.name(Box[int])] == ["Box", "Box~2", "Box"]
    assert [shapes.table[name]["fields"]["inside"]["type"] for name in ("Box", "Box~2")] == ["int", "str"]


def test_a_generic_model_too() -> None:
    class Page(BaseModel, Generic[T]):
        rows: list[T]

    shapes = Shapes()
    assert shapes.name(Page[int]) == "Page"
    assert shapes.table["Page"]["fields"]["rows"]["type"] == "list[int]"


# --- whether one fits another


def fit(saved: Any, current: Any) -> Fit:
    old, new = Shapes(), Shapes()
    words = old.name(saved), new.name(current)
    return Fitting(old.table, new.table).fit(*words)


class Line2(BaseModel):
    sku: str
    count: int = 1


class LineWithNote(BaseModel):
    sku: str
    count: int = 1
    note: str = ""


class Order2(BaseModel):
    lines: list[Line2]
    colour: Colour | None = None
    parent: Optional[Order2] = None  # noqa: UP045


class More(Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


@pytest.mark.parametrize(
    ("saved", "current", "wanted"),
    [
        (int, int, Fit.SAME),
        (int, str, Fit.OTHER),
        (int, float, Fit.OTHER),
        (list[int], list[str], Fit.OTHER),
        (list, list[int], Fit.OTHER),
        (int, Any, Fit.UNKNOWN),
        (Any, int, Fit.UNKNOWN),
        (Any, Any, Fit.SAME),
        (int, int | None, Fit.WIDER),
        (int | None, int, Fit.OTHER),
        (int | str, str | int, Fit.SAME),
        (Literal["a"], Literal["a", "b"], Fit.WIDER),
        (Literal["a", "b"], Literal["a"], Fit.OTHER),
        (Line, Line, Fit.SAME),
        (Line, Line2, Fit.RENAMED),
        (list[Line], list[Line2], Fit.RENAMED),
        (Line | int, Line2 | int, Fit.RENAMED),
        (Order, Order2, Fit.RENAMED),
        (Line, LineWithNote, Fit.WIDER),
        (LineWithNote, Line, Fit.OTHER),
        (Colour, More, Fit.WIDER),
        (More, Colour, Fit.OTHER),
        (Line, Point, Fit.OTHER),
        (Line | Point, Point | Line, Fit.SAME),
    ],
)
def test_how_a_type_takes_the_values_of_another(saved: Any, current: Any, wanted: Fit) -> None:
    assert fit(saved, current) is wanted


def test_a_pair_that_does_not_fit_stays_so() -> None:
    old, new = Shapes(), Shapes()
    words = old.name(Line), new.name(Point)
    fitting = Fitting(old.table, new.table)
    assert [fitting.fit(*words), fitting.fit(*words)] == [Fit.OTHER, Fit.OTHER]


def test_types_are_read_back() -> None:
    assert parse('dict[str, list[int] | None] | Literal["a, b] | c", "\\""]') == Node(
        "|",
        (
            Node("dict", (Node("str"), Node("|", (Node("list", (Node("int"),)), Node("None"))))),
            Node("Literal", (Node('"a, b] | c"'), Node('"\\""'))),
        ),
    )


@given(st.text(max_size=30))
def test_any_text_reads_as_something(text: str) -> None:
    assert isinstance(parse(text), Node)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4, unique=True))
def test_any_literal_fits_itself_alone(values: list[str]) -> None:
    saved = named(Literal[tuple(values)])
    assert Fitting({}, {"X": {}}).fit(saved, saved) is Fit.SAME
    assert Fitting({}, {"X": {}}).fit(saved, named(Literal[(*values, "a longer one")])) is Fit.WIDER


# --- manifests


@step
def load(number: int) -> Order:
    return Order(lines=[])


@step(aliases=["send", "mail"])
async def notify(order):  # type: ignore[no-untyped-def]
    return None


PIPELINE: Pipeline = load >> Step.human_in_the_loop("approve", input_schema=bool) >> notify


def test_a_manifest() -> None:
    made = manifest_of(PIPELINE, "orders", "1.0.0", Point)
    assert made.pop("types").keys() == {"Order", "Line", "Colour"}
    assert made == {
        "format": 1,
        "pipeline": "orders",
        "version": "1.0.0",
        "steps": [
            {"name": "load", "kind": "step", "output": "Order"},
            {"name": "approve", "kind": "human", "output": "bool"},
            {"name": "notify", "kind": "step", "output": None, "aliases": ["mail", "send"]},
        ],
        "context": {"x": {"type": "int", "required": True}, "tags": {"type": "list[str]", "required": False}},
    }


def test_a_digest_is_that_of_the_shape_alone() -> None:
    def without_type(number: int) -> Order:
        """Another body."""
        raise NotImplementedError

    again = Step("load", function=without_type) >> Pipeline(PIPELINE.steps[1:])
    wanted = digest_of(manifest_of(PIPELINE, "orders", "1.0.0", Order))
    assert digest_of(manifest_of(again, "orders", "1.0.0", Order)) == wanted
    assert len(wanted) == 64
    assert digest_of(manifest_of(PIPELINE, "orders", "1.0.1", Order)) != wanted
    assert digest_of(manifest_of(PIPELINE, "orders", "1.0.0")) != wanted


SHAPED = """\
import enum
from dataclasses import dataclass
from typing import Dict, List, Literal, Optional, Union

from pydantic import BaseModel

from flujo_lens.runner.dsl import Step, step
from flujo_lens.runner.manifests import digest_of, manifest_of


class Mode(enum.StrEnum):
    FAST = "fast"


@dataclass
class Item:
    name: str
    mode: Mode = Mode.FAST


class Context(BaseModel):
    items: Dict[str, List[Item]]
    left: Optional[Union[int, str]] = None
    state: Literal["new", "old"] = "new"


@step
def first(text: str) -> list[Item]:
    return []


pipeline = first >> Step.human_in_the_loop("ask", input_schema=Optional[Context])
print(digest_of(manifest_of(pipeline, "shaped", "1", Context)))
"""


DIGEST = "364069703d6fffcf83e7703aa0cb35fcd543e7c46f4bf432b8bdd1c1656a38b1"
"""Stores hold it: another digest of the same shape would make every stored run look changed."""


def test_every_process_and_python_makes_the_same_manifest(tmp_path: Path) -> None:
    """As a script and imported, and with other seeds of hashing."""
    (tmp_path / "shaped.py").write_text(SHAPED, encoding="utf-8")
    for seed, arguments in enumerate((["shaped.py"], ["-c", "import shaped"])):
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTHONHASHSEED": str(seed)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == DIGEST
