"""What ``lens explain`` prints: the codes, or the page of one."""

from __future__ import annotations

from flujo_lens.cli.output import Output
from flujo_lens.operations.explain import Explanation, explain, explanations
from flujo_lens.redaction import Redactor
from flujo_lens.rendering import columns

__all__ = ["print_codes", "print_page"]


def print_codes(out: Output) -> None:
    """Every code, a line each."""
    _needs_no_settings(out)
    out.show(columns.EXPLANATION, explanations(), "")


def print_page(out: Output, code: str) -> None:
    """One page: drawn on a terminal, in a pipe as it is, or its fields in the format that was asked for."""
    _needs_no_settings(out)
    page = explain(code)
    if out.form == "json":
        out.document(columns.PAGE.row(page, out.fields(columns.PAGE)))
    elif out.options.columns is not None or out.options.output not in (None, "table"):
        out.show(columns.PAGE, [page], "")
    elif out.is_table and out.app.world.unicode:
        _draw(out, page)
    else:
        out.write(page.text.encode())


def _draw(out: Output, page: Explanation) -> None:
    from flujo_lens.rendering.markdown import MarkdownPage

    out.print(MarkdownPage(page.text))


def _needs_no_settings(out: Output) -> None:
    """A settings file that is broken must not keep anyone from reading what to do about it."""
    out.redactor = Redactor(show=True)
