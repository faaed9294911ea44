"""Output of ``lens explain``: the list of codes, or the page of one."""

from __future__ import annotations

from flujo_lens.cli.output import Output
from flujo_lens.operations.explain import Explanation, explain, explanations
from flujo_lens.redaction import Redactor
from flujo_lens.rendering import columns


def print_codes(out: Output) -> None:
    """Print all codes, one per line."""
    _needs_no_settings(out)
    out.show(columns.EXPLANATION, explanations(), "")


def print_page(out: Output, code: str) -> None:
    """Print a page: rendered on a terminal, as plain text in a pipe, or its fields in a machine format."""
    _needs_no_settings(out)
    page = explain(code)
    if out.form == "json":
        out.document(columns.PAGE.row(page, out.fields(columns.PAGE)))
    elif out.options.columns is not None or out.options.output not in (None, "table"):
        out.show(columns.PAGE, [page], "")
    elif out.is_table and out.app.world.unicode and (out.folds or out.options.output is not None):
        _draw(out, page)
    else:
        from flujo_lens.rendering.plain_markdown import plain_text

        out.write(plain_text(page.text).encode())


def _draw(out: Output, page: Explanation) -> None:
    from flujo_lens.rendering.markdown import MarkdownPage

    out.print(MarkdownPage(page.text))


def _needs_no_settings(out: Output) -> None:
    """Ignore the settings, so that the page on broken settings can be read."""
    out.redactor = Redactor(show=True)
