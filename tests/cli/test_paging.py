"""Pages by cursor, put together, are the whole list; what is said about them is on stderr alone."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime

import pytest
from support import Lens, Result

from flujo_lens.operations.cursor import decode_cursor, encode_cursor

FILTERS = ["", "--status completed", "--status running,paused", "--pipeline orders", "--search 001", "--top-level"]


def _next_page(result: Result) -> list[str]:
    """The arguments that the note proposes for the next page."""
    found = re.search(r"lens (list .*?--cursor \S+(?: -n \d+)?(?: --reverse)?)", result.err)
    return shlex.split(found.group(1))[1:] if found else []


def _cursor(result: Result) -> str | None:
    proposed = _next_page(result)
    return proposed[proposed.index("--cursor") + 1] if proposed else None


def _pages(lens: Lens, line: str, size: int) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        at = f" --cursor {cursor}" if cursor else ""
        page = lens(f"{line} -n {size} -o id{at}")
        assert page.code == 0, page.err
        pages.append(page.lines)
        cursor = _cursor(page)
    return pages


def _check(lens: Lens, line: str, size: int) -> None:
    whole = lens(f"{line} --all -o id").lines
    pages = _pages(lens, line, size)
    assert [run for page in pages for run in page] == whole
    assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert 0 < len(pages[-1]) <= size


@pytest.mark.parametrize("reverse", ["", " --reverse"])
@pytest.mark.parametrize("wanted", FILTERS)
@pytest.mark.parametrize("size", [3, 10])
def test_pages_make_the_whole(lens: Lens, wanted: str, size: int, reverse: str) -> None:
    _check(lens, f"list {wanted}{reverse}", size)


@pytest.mark.parametrize("wanted", ["", "--status completed", "--search orders", "--reverse"])
def test_pages_of_files(file_lens: Lens, wanted: str) -> None:
    _check(file_lens, f"list {wanted}", 4)


@pytest.mark.parametrize("reverse", ["", " --reverse"])
def test_pages_of_one(old_lens: Lens, reverse: str) -> None:
    _check(old_lens, f"list{reverse}", 1)


@pytest.mark.parametrize("reverse", ["", " --reverse"])
@pytest.mark.parametrize("size", [1, 4])
def test_runs_that_start_together_or_never(lens: Lens, size: int, reverse: str) -> None:
    """Ties are broken by the id; runs without a readable start come last, and are paged too."""
    lens.edit(
        "UPDATE runs SET created_at = '2026-11-21T00:11:09+00:00' WHERE pipeline_name = 'orders'",
        "UPDATE runs SET created_at = 'when?' WHERE pipeline_name = 'odd'",
        "UPDATE workflow_state SET created_at = 'when?', updated_at = '' WHERE run_id LIKE 'bgparent%'",
    )
    _check(lens, f"list{reverse}", size)


def test_reverse_is_the_same_list_backwards(lens: Lens) -> None:
    assert lens("list --all -o id --reverse").lines == lens("list --all -o id").lines[::-1]


def test_a_page_that_ends_with_the_list_has_no_next(lens: Lens) -> None:
    count = int(lens("list --count").out)
    for size in (count, count + 1):
        page = lens(f"list -n {size} -o id")
        assert (len(page.lines), page.err) == (count, "")
    assert "--cursor" in lens(f"list -n {count - 1}").err


@pytest.mark.parametrize("form", ["json", "ndjson", "csv", "tsv", "id"])
def test_the_note_is_on_stderr_alone(lens: Lens, form: str) -> None:
    page = lens(f"list -n 2 -o {form}")
    assert "cursor" not in page.out
    assert "--cursor" in page.err
    assert "lens list --count" in page.err
    quiet = lens(f"list -n 2 -o {form} --quiet")
    assert (quiet.out, quiet.err) == (page.out, "")


def test_the_note_in_a_table(lens: Lens) -> None:
    page = lens("list -n 2", tty=True)
    assert "cursor" not in page.out
    assert "the newest 2" in page.err
    assert "the oldest 2" in lens("list -n 2 --reverse", tty=True).err
    assert lens("-q list -n 2", tty=True).err == ""


def test_fifty_are_shown_unless_asked(lens: Lens) -> None:
    lens.edit(
        "WITH RECURSIVE numbers(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers LIMIT 60) "
        "INSERT INTO runs (run_id, pipeline_id, pipeline_name, pipeline_version, status, created_at, updated_at) "
        "SELECT 'more-' || n, 'p', 'p', '1', 'completed', '2026-11-20T00:00:00Z', '2026-11-20T00:00:00Z' FROM numbers"
    )
    assert len(lens("list -o id").lines) == 50
    assert len(lens("list -o id --all").lines) == 90


def test_all_and_a_cursor(lens: Lens) -> None:
    first = lens("list -n 5 -o id")
    rest = lens(f"list --all -o id --cursor {_cursor(first)}")
    assert first.lines + rest.lines == lens("list --all -o id").lines


def test_all_contradicts_a_limit(lens: Lens) -> None:
    assert lens("list --all -n 3").code == 2
    assert lens("list -n 0").code == 2


@pytest.mark.parametrize(
    "cursor", ["xyz", "''", "e30", "eyJ0IjoxLCJpZCI6MX0", "bnVsbA", "W10", "ü", "//8=", "o" * 40, "r" + "A" * 40]
)
def test_a_cursor_that_is_none(lens: Lens, cursor: str) -> None:
    for options in ("", " --all", " -o json"):
        result = lens(f"list --cursor {cursor}{options}")
        assert (result.code, result.out) == (2, ""), result
        assert "cursor" in result.err


def test_a_cursor_of_a_run_that_has_gone(lens: Lens) -> None:
    whole = lens("list --all -o id").lines
    first = lens("list -n 5 -o id")
    gone = first.lines[-1]
    lens.edit(("DELETE FROM runs WHERE run_id = ?", (gone,)), ("DELETE FROM workflow_state WHERE run_id = ?", (gone,)))
    assert lens(f"list --all -o id --cursor {_cursor(first)}").lines == whole[5:]


def test_a_cursor_is_short_and_needs_no_quotes(lens: Lens) -> None:
    for size in range(1, 29):
        page = lens(f"list -n {size} -o id")
        cursor, last = _cursor(page), page.lines[-1]
        assert cursor is not None
        assert re.fullmatch(r"\w[\w-]+", cursor, re.ASCII)
        assert len(cursor) <= 18 + len(re.sub(r"^run_|[0-9a-f]{32}$", "", last).encode()) * 4 / 3 + 22 * (
            len(last) > 32
        )


def test_a_cursor_that_was_cut_or_changed_is_refused(lens: Lens) -> None:
    cursor = _cursor(lens("list -n 3 -o id")) or ""
    for changed in (cursor[:-1], cursor[1:], cursor[:8] + ("A" if cursor[8] != "A" else "B") + cursor[9:]):
        result = lens(f"list --cursor={changed}")
        assert (result.code, "is not a cursor" in result.err) == (2, True), changed


@pytest.mark.parametrize("sort", ["cost", "tokens:asc", "duration --reverse", "updated", "started:asc"])
def test_pages_of_a_sorted_list(lens: Lens, sort: str) -> None:
    _check(lens, f"list --sort {sort}", 7)
    cursor = _cursor(lens(f"list --sort {sort} -n 3"))
    for other in ("", " --sort cost:asc", " --sort updated:asc"):
        result = lens(f"list{other} --cursor {cursor}")
        assert (result.code, "other filters or another order" in result.err) == (2, True), result.err


@pytest.mark.parametrize("other", ["--status failed", "--reverse", "--since 2d", ""])
def test_a_cursor_of_another_list_is_refused(lens: Lens, other: str) -> None:
    cursor = _cursor(lens("list -n 3 --pipeline orders --status completed"))
    assert lens(f"list --pipeline orders --status completed --cursor {cursor}").code == 0
    assert lens(f"list --status completed --pipeline orders -o json -n 7 --cursor {cursor}").code == 0
    result = lens(f"list {other} --cursor {cursor}")
    assert (result.code, result.out) == (2, "")
    assert "other filters or another order" in result.err


@pytest.mark.parametrize(
    "position",
    [
        (datetime(2026, 11, 21, 3, 11, 8, 123456, UTC), "run_0123456789abcdef0123456789abcdef"),
        (datetime(2026, 11, 21, tzinfo=UTC), "run_0123456789ABCDEF0123456789abcdef"),
        (datetime(2026, 11, 21, tzinfo=UTC), "0123456789abcdef0123456789abcdef"),
        (datetime(2026, 11, 21, tzinfo=UTC), "ü\nrun_0123456789abcdef0123456789abcdef"),
        (datetime(1, 1, 1, tzinfo=UTC), ""),
        (datetime.max.replace(tzinfo=UTC), "a b\0ü\ud800"),
        (datetime(1970, 1, 1, tzinfo=UTC), "x" * 300),
        (None, "no time"),
    ],
)
def test_a_position_comes_back(position: tuple[datetime | None, str]) -> None:
    assert decode_cursor(encode_cursor(position, ["a"]), ["a"]) == position
