"""What lens tells to type repeats the store and the application that it was given, and nothing else."""

from __future__ import annotations

import shlex

import pytest
from pipelines import Shop
from support import Lens

from flujo_lens.cli.hints import Repeated, with_placeholder
from flujo_lens.errors import command_line, nearest

OPTIONS = "--store 'my runs.db'"


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ("show r1", ()),
        ("show r1 --store a.db", (("--store", "a.db"),)),
        ("-s a.db show r1", (("--store", "a.db"),)),
        ("show r1 -sa.db", (("--store", "a.db"),)),
        ("show --store=a.db --store b.db r1", (("--store", "b.db"),)),
        ("resume r1 --app m:a --app-dir=src", (("--app", "m:a"), ("--app-dir", "src"))),
        ("show -- --store=a.db", ()),
        ("show --store", ()),
    ],
)
def test_what_was_given(arguments: str, options: tuple[tuple[str, str], ...]) -> None:
    assert Repeated.of(arguments.split()).options == options


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lens show r1", f"lens show {OPTIONS} r1"),
        ("lens cancel --reason x -- -r1", f"lens cancel {OPTIONS} --reason x -- -r1"),
        ("lens resume r1", f"lens resume {OPTIONS} --app m:a r1"),
        ("lens resume r1 --app m:b --dry-run", f"lens resume {OPTIONS} r1 --app m:b --dry-run"),
        ("lens check --save in.json", f"lens check {OPTIONS} --save in.json"),
        ("lens tasks sweep", f"lens tasks sweep {OPTIONS}"),
        ("lens explain LENS-C1", "lens explain LENS-C1"),
        ("`lens list --all` names them; lens stores", f"`lens list {OPTIONS} --all` names them; lens stores"),
    ],
)
def test_commands_in_texts(text: str, told: str) -> None:
    assert Repeated((("--store", "my runs.db"), ("--app", "m:a"))).prose(text) == told


@pytest.mark.parametrize("run_id", ["r1", "a -- b", "it's", "-x", "--"])
def test_the_placeholder_of_an_application_is_no_part_of_an_id(run_id: str) -> None:
    made = with_placeholder(command_line("resume", run_id, "--input ANSWER"))
    rest = ["--", run_id] if run_id.startswith("-") else []
    first = [] if rest else [run_id]
    options = ["--input", "ANSWER", "--app", "MODULE:NAME"]
    assert shlex.split(made) == ["lens", "resume", *first, *options, *rest]


def test_only_a_command_is_one() -> None:
    assert Repeated((("--store", "a.db"),)).command("run lens show") == "run lens show"


def test_a_password_is_not_printed() -> None:
    """It is left out, so that the command asks for it elsewhere, and a line says where."""
    for uri, typed, where in (
        ("postgresql://me:secret@db:1/x?ssl=1", "postgresql://me@db:1/x?ssl=1", "PGPASSWORD"),
        ("postgresql://db/x?password=secret", "postgresql://db/x", "PGPASSWORD"),
        ("redis://:secret@db/0", "redis://db/0", "[stores] in lens.toml"),
    ):
        repeated = Repeated((("--store", uri),))
        assert repeated.password_note() is None
        assert shlex.split(repeated.command("lens list")) == ["lens", "list", "--store", typed]
        assert where in str(repeated.password_note())
    plain = Repeated((("--store", "postgresql://me@db/x"),))
    assert (plain.command("lens list")[-20:], plain.password_note()) == ("postgresql://me@db/x", None)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("diff fail-001", "lens diff fail-001 @latest"),
        (
            "copy flujo_ops.db mystore",
            'the store argument names "mystore": no such store; no settings file names a store',
        ),
        ("failed --by version --version 9.9", "lens failed --by version --hours 720 --version 9.9"),
        ("trace fail-001 --export svg", "\n  lens trace fail-001 --export svg trace.svg\n"),
        ("list -n 0", "--limit: must be 1 or more, not 0"),
        (
            "list --store postgresql://me:pw@127.0.0.1:1/x --timeout 1",
            "to see whether the server is up: pg_isready -h 127.0.0.1 -p 1\n",
        ),
        (
            "list --store redis://:pw@127.0.0.1:1/0 --timeout 1",
            "to see whether the server is up: redis-cli -h 127.0.0.1 -p 1 ping\n",
        ),
    ],
)
def test_a_hint_has_what_was_typed(lens: Lens, line: str, hint: str) -> None:
    lens.env.pop("LENS_STORE", None)
    assert hint in lens(line).err


def test_an_option_of_another_command_is_no_misspelling(lens: Lens) -> None:
    assert "Did you mean" not in lens("waiting --sort x").err
    assert "Did you mean --store?" in lens("waiting --stor x").err


def test_undo_without_an_id_restores_nothing(lens: Lens) -> None:
    assert (lens("undo").code, lens("undo --yes").code, lens("undo --dry-run").code) == (0, 2, 2)


def test_nothing_is_repeated_of_settings_and_variables(lens: Lens) -> None:
    assert "next: lens" in lens("status -o table").out
    assert "--store" not in lens("status -o table").out.partition("next:")[2]


def test_the_next_command_finds_the_run(bare_lens: Lens) -> None:
    shop = Shop(bare_lens)
    shop.begin("billing", "one")
    shop.lens.env.pop("LENS_STORE", None)
    for path in shop.cwd.glob(f"{shop.store}*"):  # the application may leave its -wal
        path.rename(shop.cwd / path.name.replace(shop.store, "my runs.db"))
    shown = shop.lens("show", "one", "--store", "my runs.db", "-o", "table")
    (line,) = [line for line in shown.lines if "lens resume" in line]
    typed = shlex.split(line.removeprefix("next: ").partition(" \u00b7 ")[0].strip())[1:]
    assert typed[:5] == ["resume", "--store", "my runs.db", "one", "--question"]
    assert typed[6:] == ["--input", "ANSWER", "--app", "MODULE:NAME"]
    done = shop.lens.process(*typed[:-1], "shop:registry")
    assert done.out == "charged ANSWER\n"
    shop.lens.write("lens.toml", '[resume]\napp = "shop:registry"\n')
    assert "MODULE:NAME" not in shop.lens("fork", "one", "--from-step", "load", "--store", "my runs.db").out
    refused = shop.lens("resume", "one", "--store", "my runs.db", "--from", "x", "-o", "json")
    assert refused.code == 2


def test_errors_and_remedies_repeat_them(bare_lens: Lens) -> None:
    shop = Shop(bare_lens)
    shop.begin("billing", "one")
    text = (shop.cwd / "shop.py").read_text().replace('"approve"', '"approve_it"')
    shop.lens.write("shop.py", text)
    refused = shop.lens.process("resume", "one", "--store", shop.store, "--app", "shop:registry", "-o", "json").error
    commands = [remedy["command"] for remedy in refused["remediations"] if remedy["command"]]
    assert f"lens delete --store {shop.store} one" in commands
    assert all(f"--store {shop.store}" in command for command in commands)
    assert all("--app shop:registry" in command for command in commands if command.startswith("lens resume"))
    assert f"lens delete --store {shop.store} one" in refused["message"]


def test_a_table_in_a_file_has_no_blanks_at_the_end_of_a_line(lens: Lens) -> None:
    for command in ("list", "status", "failed", "stats"):
        found = lens(f"{command} -o table")
        assert found.lines
        assert [line for line in found.lines if line != line.rstrip()] == []


@pytest.mark.parametrize(
    ("word", "listed"), [("@latest", "lens list -n 1 -o id"), ("@paused", "lens list --status paused -n 1 -o id")]
)
def test_words_for_the_newest_run_are_refused_without_a_terminal(lens: Lens, word: str, listed: str) -> None:
    refused = lens(f"cancel {word} --yes")
    assert refused.code == 3
    assert f"{word} is accepted only on a terminal, without --yes; nothing was changed" in refused.err
    assert listed in refused.err
    assert lens(listed.removeprefix("lens ")).lines


@pytest.mark.parametrize(
    ("typed", "corrected"),
    [
        ("list --statsu failed", "list --status failed"),
        ("list --stats=failed", "list --status=failed"),
        ("list --status running,eror -n 5", "list --status running,failed -n 5"),
        ("list --status succeeded", "list --status completed"),
        ("lst --status failed", "list --status failed"),
        ("list --columns run_id,statsu", "list --columns run_id,status"),
        ("list --sort cots", "list --sort cost"),
        ("tasks lst", "tasks list"),
        ("show fail-001 -s flujo_op.db", "show fail-001 -s flujo_ops.db"),
        ("list --store=sqlite:///flujo-ops.db", "list --store=sqlite:///flujo_ops.db"),
        ("copy flujo_op.db new.db", "copy flujo_ops.db new.db"),
        ("list -s flujo_ops.bd", "list -s flujo_ops.db"),
        ("list --failed -n 5", "list --status failed -n 5"),
        ("list --paused", "list --status paused"),
        ("prune 30d --dry-run", "prune --older-than 30d --dry-run"),
        ("trace fail-001 -o svg", "trace fail-001 --export svg trace.svg"),
        ("trace fail-001 --export", "trace fail-001 --export html trace.html"),
        ("trace fail-001 --export otlp", "trace fail-001 --export otlp trace.json"),
    ],
)
def test_the_corrected_line_can_be_pasted(lens: Lens, typed: str, corrected: str) -> None:
    """The words as typed, but the wrong one: on a line of its own, and as the hint in JSON."""
    refused = lens(typed)
    assert refused.code in (2, 5)
    assert refused.err.splitlines()[1] == f"  lens {corrected}"
    if "-o" not in typed and "--export" not in typed:
        assert lens(f"{typed} --json").error["hint"].startswith(f"lens {corrected} --json")
    assert lens(corrected.replace("copy", "copy --dry-run")).code == 0


def test_a_corrected_line_has_no_secret_and_guesses_nothing(lens: Lens) -> None:
    refused = lens("list --statsu failed -s postgresql://me:hunter2@db/ops")
    assert (refused.code, "lens list --status" in refused.err, "hunter2" in refused.err) == (2, False, False)
    assert lens("list --status eror --status eror").err.count("lens list") == 0
    assert "Did you mean" not in lens("list -s other.db").err


@pytest.mark.parametrize("option", ["--since", "--until", "--active-since"])
def test_a_number_is_asked_for_its_unit(lens: Lens, option: str) -> None:
    assert lens(f"list {option} 7").err.splitlines()[1] == "  7 of what? 7h is 7 hours, 7d is 7 days"


@pytest.mark.parametrize(
    "typed",
    ["list --bogus", "list --on yesterday", "undo --last", "show fail-001 --zzz", "list --status broken", "zzzz"],
)
def test_nothing_is_suggested_that_is_not_close(lens: Lens, typed: str) -> None:
    refused = lens(typed)
    assert (refused.code, "Did you mean" in refused.err) == (2, False)
    assert "near" not in lens(f"{typed} --json").error
    for line in refused.err.splitlines()[1:]:
        assert line in (f"  lens {typed.split()[0]} --help", "  lens --help lists the commands")
    assert "Statuses: running, paused, " in refused.err or "broken" not in typed


@pytest.mark.parametrize(
    ("typed", "corrected"),
    [
        ("list --colums", "list --columns A,B,C"),
        ("list --stats -n 5", "list --status STATUS -n 5"),
        ("list --jsn", "list --json"),
    ],
)
def test_an_option_is_not_suggested_without_its_value(lens: Lens, typed: str, corrected: str) -> None:
    assert lens(typed).err.splitlines()[1] == f"  lens {corrected}"


@pytest.mark.parametrize(
    ("typed", "near"),
    [
        ("lsit", "list"),
        ("statsu", "status"),
        ("sta", "status"),
        ("Lists", "list"),
        ("--list", "list"),
        ("stauts", "status"),
        ("ls", None),
        ("cost", None),
        ("solution", None),
        ("", None),
    ],
)
def test_what_is_close(typed: str, near: str | None) -> None:
    """At most two errors and a third of the length, or a beginning of three characters."""
    assert nearest(typed, ["list", "status"]) == near


def test_a_command_that_does_not_ask_says_so(lens: Lens) -> None:
    refused = lens("resume paused-001 --yes")
    assert (refused.code, refused.err.splitlines()[1]) == (2, "  resume does not ask: omit --yes")
    assert "  tasks sweep does not ask: omit -y\n" in lens("tasks sweep -y").err
    assert "does not ask" not in lens("--yes prune --older-than 30d").err
