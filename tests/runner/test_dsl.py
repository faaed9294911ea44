"""Steps, pipelines, the registry, and finding an application's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flujo_lens import Pipeline, PipelineContext, PipelineRegistry, Step, step
from flujo_lens.errors import AppNotFoundError, UnknownValueError, UsageError
from flujo_lens.runner.registry import load_attribute, version_key


class Invoice(BaseModel):
    number: int


@step
async def load(number: int) -> Invoice:
    return Invoice(number=number)


@step(name="send", aliases=["mail"], retries=3, backoff=0.5, timeout=60)
def post(invoice: Invoice, *, context: PipelineContext) -> None:
    context.scratchpad["sent"] = invoice.number


ask = Step.human_in_the_loop("ask", message_for_user="Go on?", input_schema=Invoice, aliases=["approve"])


def test_a_step_is_what_its_function_says() -> None:
    assert (load.name, load.kind, load.output_type, load.input_type) == ("load", "step", Invoice, int)
    assert (load.retries, load.backoff, load.timeout, load.aliases, load.wants_context) == (0, 0.0, None, (), False)


def test_a_step_is_what_its_decorator_says() -> None:
    assert (post.name, post.aliases, post.retries, post.backoff, post.timeout) == ("send", ("mail",), 3, 0.5, 60)
    assert (post.output_type, post.input_type, post.wants_context) == (type(None), Invoice, True)


def test_a_question() -> None:
    assert (ask.name, ask.kind, ask.message_for_user, ask.output_type) == ("ask", "human", "Go on?", Invoice)
    assert ask.aliases == ("approve",)
    assert Step.human_in_the_loop("ask", "Go on?").output_type is None


def test_an_annotation_that_cannot_be_found_is_none() -> None:
    def body(value: Missing) -> Missing:  # type: ignore[name-defined]  # noqa: F821
        return value

    assert (Step("body", function=body).output_type, Step("body", function=body).input_type) == (None, None)


def test_a_step_can_be_called_as_its_function() -> None:
    context = PipelineContext()
    post(Invoice(number=7), context=context)
    assert context.scratchpad == {"sent": 7}
    with pytest.raises(UsageError, match='"ask" is a human step'):
        ask("x")


def test_steps_and_pipelines_are_joined() -> None:
    names = [each.name for each in (load >> post >> ask).steps]
    assert names == [each.name for each in (load >> (post >> ask)).steps] == ["load", "send", "ask"]
    assert Pipeline.from_step(load).steps == (load,)


@pytest.mark.parametrize("other", ["load", "mail", "send"])
def test_a_name_belongs_to_one_step(other: str) -> None:
    with pytest.raises(UsageError, match=f'two steps of the pipeline are named "{other}"'):
        load >> post >> Step.human_in_the_loop(other)


@pytest.mark.parametrize("values", [{"name": ""}, {"retries": -1}, {"backoff": -0.1}, {"timeout": 0}, {"timeout": -1}])
def test_a_step_that_cannot_be(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Step(**{"name": "x", "function": print, **values})


def test_a_pipeline_has_a_step() -> None:
    with pytest.raises(UsageError, match="a pipeline needs at least one step"):
        Pipeline(())


# --- the registry


def test_a_registry_knows_the_newest_by_its_numbers() -> None:
    registry = PipelineRegistry()
    for version in ("1.9.0", "1.10.0", "1.10.0rc1", "1.2"):
        registry.register(load, "orders", version)
    assert registry.versions("orders") == ("1.2", "1.9.0", "1.10.0rc1", "1.10.0")
    assert registry.get_latest_version("orders") == "1.10.0"
    assert registry.latest("orders") is registry.get("orders", "1.10.0") is registry.get("orders", "latest")
    assert registry.get_latest("orders") is registry.latest("orders")
    assert registry.names() == ("orders",)
    assert registry.find("orders", "latest") == (registry.latest("orders"), "1.10.0")


def test_what_a_registry_does_not_know() -> None:
    registry = PipelineRegistry()
    assert registry.get("orders", "1") is registry.latest("orders") is registry.get_latest_version("orders") is None
    assert registry.versions("orders") == registry.names() == ()
    with pytest.raises(UnknownValueError, match="Valid: none"):
        registry.find("orders", "1")


@pytest.mark.parametrize(("name", "version"), [("", "1"), ("orders", ""), ("orders", "latest")])
def test_a_pipeline_without_a_name_of_its_own(name: str, version: str) -> None:
    with pytest.raises(UsageError, match="invalid name or version of a pipeline"):
        PipelineRegistry().register(load, name, version)


@pytest.mark.parametrize(
    ("older", "newer"),
    [("1", "2"), ("1.9", "1.10"), ("1.0.0-rc1", "1.0.0"), ("1.0.0rc1", "1.0.0"), ("1.0rc9", "1.0rc10"), ("v1", "v2")],
)
def test_the_order_of_versions(older: str, newer: str) -> None:
    assert version_key(older) < version_key(newer)


def test_migrations_lead_from_version_to_version() -> None:
    def one(context: dict[str, Any]) -> dict[str, Any]:
        return context

    def two(context: dict[str, Any]) -> dict[str, Any]:
        return context

    registry = PipelineRegistry()
    registry.register(load, "orders", "2", migrations={"1": one})
    registry.register(load, "orders", "3", migrations={"2": two})
    assert registry.migrations("orders", "1", "3") == (one, two)
    assert registry.migrations("orders", "3", "3") == ()
    assert registry.migrations("orders", "3", "1") is None
    assert registry.migrations("orders", "0", "3") is None


# --- module:attribute


def test_an_attribute_of_a_module_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app_one.py").write_text("class Apps:\n    registry = 'found'\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_attribute("app_one:Apps.registry", tmp_path) == "found"
    with pytest.raises(AppNotFoundError, match='no attribute "registri"') as refused:
        load_attribute("app_one:Apps.registri", tmp_path)
    assert refused.value.hint == "did you mean registry?"


def test_the_current_folder_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "app_two.py").write_text("registry = 2\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert load_attribute("app_two:registry") == 2


@pytest.mark.parametrize("spec", ["registry", "app:", ":registry", ""])
def test_what_is_no_name_of_an_application(spec: str) -> None:
    with pytest.raises(UsageError, match="does not have the form module:attribute"):
        load_attribute(spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("./shop.py:r", "--app shop:r"),
        ("shop.py:r", "--app shop:r"),
        ("..shop:r", "--app shop:r"),
        ("src/a b/shop.py:r.s", "--app shop:r.s --app-dir 'src/a b'"),
    ],
)
def test_the_path_of_a_file_is_no_name_of_a_module(
    spec: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop.py").write_text("r = 1\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UsageError, match="is not the name of a module") as refused:
        load_attribute(spec, tmp_path)
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no module named app_three$"),
        ("import not_there_at_all", "no module named not_there_at_all, which app_three imports"),
        ("1 / 0", "importing app_three failed: ZeroDivisionError: division by zero"),
        ("def", "importing app_three failed: SyntaxError"),
    ],
)
def test_an_application_that_cannot_be_imported(
    source: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source is not None:
        (tmp_path / "app_three.py").write_text(source)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(AppNotFoundError, match=message):
        load_attribute("app_three:registry", tmp_path)
