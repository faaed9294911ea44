"""Settings and the choice of the store: real files under tmp_path, and an injected world."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from flujo_lens.config import (
    Settings,
    StoreChoice,
    World,
    choose_store,
    load_settings,
)
from flujo_lens.config_sources import absolute_uri
from flujo_lens.errors import ConfigError, NoStoreError, TimeFormatError, UnknownStoreError
from flujo_lens.redaction import masked_text
from flujo_lens.state.typed_times import parse_duration

Write = Callable[[str, str], Path]


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A folder `work/project` to stand in, an empty user's and machine's folder, no variables but HOME."""
    for name in ("work/project", "user", "etc", "home"):
        (tmp_path / name).mkdir(parents=True)
    env = {"HOME": str(tmp_path / "home")}
    return World(env, tmp_path / "work/project", tmp_path / "user", tmp_path / "etc")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def with_env(world: World, **env: str) -> World:
    return replace(world, env={**world.env, **env})


def chosen(world: World, store: str | None = None, config: str | None = None) -> StoreChoice:
    return choose_store(world, load_settings(world, config=config), store)


def source_of(settings: Settings, key: str) -> str:
    return next(row.source for row in settings.rows if row.key == key)


def value_of(settings: Settings, key: str) -> object:
    return next(row.value for row in settings.rows if row.key == key)


# --- which store -----------------------------------------------------------------------------------------

LEVELS = [
    ("work/project/lens.toml", 'default = "redis://lens/0"', "redis://lens/0"),
    (
        "work/project/pyproject.toml",
        '[tool.flujo-lens]\ndefault = "redis://pyproject/0"',
        "redis://pyproject/0",
    ),
    ("work/project/flujo.toml", 'state_uri = "redis://flujo/0"', "redis://flujo/0"),
    ("user/lens.toml", 'default = "redis://user/0"', "redis://user/0"),
    ("etc/lens.toml", 'default = "redis://etc/0"', "redis://etc/0"),
    ("work/project/flujo_ops.db", "", None),
]


@pytest.mark.parametrize("level", range(len(LEVELS)))
def test_the_highest_source_that_names_a_store_is_taken(world: World, write: Write, level: int) -> None:
    for name, text, _ in LEVELS[level:]:
        write(name, text)
    expected = LEVELS[level][2] or f"sqlite:///{world.cwd}/flujo_ops.db"
    assert chosen(world).uri == expected


def test_option_over_lens_store_over_flujo_state_uri_over_files(world: World, write: Write) -> None:
    write("work/project/lens.toml", 'default = "redis://file/0"')
    flujo = with_env(world, FLUJO_STATE_URI="redis://flujo/0")
    both = with_env(flujo, LENS_STORE="redis://lens/0")
    assert (chosen(flujo).uri, chosen(flujo).source) == ("redis://flujo/0", "FLUJO_STATE_URI")
    assert (chosen(both).uri, chosen(both).source) == ("redis://lens/0", "LENS_STORE")
    option = chosen(both, "redis://option/0")
    assert option == StoreChoice("redis://option/0", None, "--store", False, None)


def test_an_empty_variable_counts_as_unset_and_an_empty_option_does_not(world: World, write: Write) -> None:
    write("work/project/flujo_ops.db", "")
    empty = with_env(world, LENS_STORE="", FLUJO_STATE_URI="", LENS_CONFIG="", LENS_TIMEOUT="")
    assert chosen(empty).source == "flujo_ops.db in this folder"
    with pytest.raises(UnknownStoreError, match="--store is empty"):
        chosen(empty, "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lens.toml", 'default = "redis://up/0"'),
        ("pyproject.toml", '[tool.flujo-lens]\ndefault = "redis://up/0"'),
        ("flujo.toml", 'state_uri = "redis://up/0"'),
    ],
)
def test_files_are_searched_upward(world: World, write: Write, name: str, text: str) -> None:
    write(f"work/{name}", text)
    write(name, text.replace("up", "too-far"))
    assert chosen(world).uri == "redis://up/0"


def test_the_nearest_lens_toml_hides_those_above(world: World, write: Write) -> None:
    write("work/lens.toml", 'silent_after = "5h"\n[stores.above]\nuri = "redis://above/0"')
    write("work/project/lens.toml", '[stores.here]\nuri = "redis://here/0"')
    settings = load_settings(world)
    assert list(settings.stores) == ["here"]
    assert settings.silent_after == timedelta(hours=1)


def test_a_pyproject_without_our_table_is_passed_over(world: World, write: Write) -> None:
    write("work/project/pyproject.toml", "not toml at all [[[")
    write("work/pyproject.toml", '[project]\ndependencies = ["flujo-lens"]')
    write("pyproject.toml", '[tool.flujo-lens]\ndefault = "redis://top/0"')
    assert chosen(world).uri == "redis://top/0"


def test_a_flujo_toml_may_hold_the_uri_under_settings_and_belongs_to_its_library(world: World, write: Write) -> None:
    path = write("work/flujo.toml", 'other = 1\n[settings]\nstate_uri = "sqlite:///a$$b.db"\n[aros]\nx = true')
    choice = chosen(world)
    assert choice.uri == f"sqlite:///{path.parent}/a$$b.db"
    assert choice.source == f"{path}:3"


def test_a_flujo_toml_without_state_uri_is_not_judged(world: World, write: Write) -> None:
    write("work/project/flujo.toml", "not toml [[[")
    with pytest.raises(NoStoreError):
        chosen(world)


def test_a_flujo_uri_is_never_a_stores_name(world: World, write: Write) -> None:
    write("work/project/lens.toml", '[stores.a]\nuri = "redis://a/0"\n[stores.b]\nuri = "redis://b/0"')
    write("work/project/flujo.toml", 'state_uri = "a"')
    assert chosen(world).uri == f"{world.cwd}/a"
    assert chosen(with_env(world, FLUJO_STATE_URI="b")).uri == f"{world.cwd}/b"


def test_the_only_store_of_a_file_is_its_default(world: World, write: Write) -> None:
    path = write("work/project/lens.toml", '# mine\n[stores.prod]\nuri = "redis://prod/0"\nreadonly = true')
    assert chosen(world) == StoreChoice("redis://prod/0", "prod", f"{path}:2", True, readonly_at=f"{path}:4")
    assert load_settings(world).default_store == "prod"


def test_files_without_a_default_fall_through(world: World, write: Write) -> None:
    write("work/project/lens.toml", 'silent_after = "2h"')
    write("user/lens.toml", '[stores.a]\nuri = "redis://a/0"\n[stores.b]\nuri = "redis://b/0"')
    write("etc/lens.toml", 'default = "b"')
    assert chosen(world).name == "b"


def test_no_store_says_what_to_do(world: World, write: Write) -> None:
    with pytest.raises(NoStoreError) as caught:
        chosen(world)
    hint = caught.value.hint or ""
    assert all(word in hint for word in ("lens --store sqlite:///path/to.db list", "LENS_STORE", "lens demo"))
    assert "lens.toml" in hint
    write("work/project/lens.toml", '[stores.a]\nuri = "redis://a/0"\n[stores.b]\nuri = "redis://b/0"')
    with pytest.raises(NoStoreError, match="the files name a, b") as caught:
        chosen(world)
    assert "lens --store a list" in (caught.value.hint or "")


def test_a_folder_named_like_the_usual_store_is_none(world: World) -> None:
    (world.cwd / "flujo_ops.db").mkdir()
    with pytest.raises(NoStoreError):
        chosen(world)


def test_naming_a_store_creates_nothing(world: World) -> None:
    before = sorted(world.cwd.parent.rglob("*"))
    chosen(world, "sqlite:///missing/new.db")
    assert sorted(world.cwd.parent.rglob("*")) == before


# --- names and paths in --store --------------------------------------------------------------------------


def test_a_name_is_taken_before_a_path(world: World, write: Write) -> None:
    write("work/project/lens.toml", '[stores.prod]\nuri = "redis://prod/0"\n[stores."x/y.db"]\nuri = "a.db"')
    (world.cwd / "prod").mkdir()
    assert chosen(world, "prod").name == "prod"
    assert chosen(world, "x/y.db").uri == f"{world.cwd}/a.db"
    assert chosen(with_env(world, LENS_STORE="prod")).source == "LENS_STORE"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ops.db", "{cwd}/ops.db"),
        ("ops.sqlite", "{cwd}/ops.sqlite"),
        ("ops.sqlite3", "{cwd}/ops.sqlite3"),
        ("./ops", "{cwd}/ops"),
        ("..", "{up}"),
        ("../states/", "{up}/states"),
        ("/abs/ops.db", "/abs/ops.db"),
        ("~/ops.db", "{home}/ops.db"),
        ("~", "{home}"),
        ("sqlite:///ops.db", "sqlite:///{cwd}/ops.db"),
        ("sqlite:///./ops.db", "sqlite:///{cwd}/ops.db"),
        ("sqlite:///../ops.db?mode=ro", "sqlite:///{up}/ops.db?mode=ro"),
        ("sqlite://ops.db", "sqlite:///{cwd}/ops.db"),
        ("SQLite:///ops.db", "sqlite:///{cwd}/ops.db"),
        ("sqlite:////abs/ops.db", "sqlite:////abs/ops.db"),
        ("sqlite://///abs/ops.db", "sqlite:////abs/ops.db"),
        ("sqlite:///", "sqlite:///"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("file:///var/states", "file:///var/states"),
        ("memory://", "memory://"),
        ("postgres://u@h/d?schema=s", "postgres://u@h/d?schema=s"),
        ("redis://h:6379/0?prefix=../x", "redis://h:6379/0?prefix=../x"),
    ],
)
def test_an_option_is_relative_to_the_current_folder(world: World, text: str, expected: str) -> None:
    home = world.env["HOME"]
    assert chosen(world, text).uri == expected.format(cwd=world.cwd, up=world.cwd.parent, home=home)
    assert chosen(with_env(world, LENS_STORE=text)).uri == chosen(world, text).uri
    assert chosen(with_env(world, FLUJO_STATE_URI=text)).uri == chosen(world, text).uri


def test_a_word_that_exists_is_a_path(world: World) -> None:
    (world.cwd / "states").mkdir()
    assert chosen(world, "states").uri == f"{world.cwd}/states"


def test_paths_in_a_file_are_relative_to_that_file(world: World, write: Write) -> None:
    path = write(
        "work/lens.toml",
        """
        default = "ops.db"
        [stores]
        path.uri = "data/ops.db"
        home.uri = "~/ops.db"
        sqlite.uri = "sqlite:///../ops.db?x=1"
        absolute.uri = "sqlite:////abs/ops.db"
        files.uri = "file:///var/states"
        [prune]
        archive_dir = "archive/"
        [audit]
        path = "~/audit.ndjson"
        """,
    )
    settings = load_settings(world)
    base, home = path.parent, world.env["HOME"]
    assert {name: entry.uri for name, entry in settings.stores.items()} == {
        "path": f"{base}/data/ops.db",
        "home": f"{home}/ops.db",
        "sqlite": f"sqlite:///{base.parent}/ops.db?x=1",
        "absolute": "sqlite:////abs/ops.db",
        "files": "file:///var/states",
    }
    assert all(entry.base == base for entry in settings.stores.values())
    assert settings.default_store == f"{base}/ops.db"
    assert settings.prune_archive_dir == base / "archive"
    assert settings.audit_path == Path(home, "audit.ndjson")


def test_an_unknown_name_tells_the_nearest(world: World, write: Write) -> None:
    write("work/project/lens.toml", '[stores.prod]\nuri = "redis://p/0"\n[stores.local]\nuri = "l.db"')
    with pytest.raises(UnknownStoreError, match=r"--store names .prd.*Did you mean prod\? Stores: prod, local"):
        chosen(world, "prd")
    with pytest.raises(UnknownStoreError, match="LENS_STORE names"):
        chosen(with_env(world, LENS_STORE="staging"))


def test_an_unknown_name_where_no_file_names_any(world: World) -> None:
    with pytest.raises(UnknownStoreError, match="no settings file names a store") as caught:
        chosen(world, "prod")
    assert "./prod" in (caught.value.hint or "")


# --- a variable and a file -------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["LENS_STORE", "FLUJO_STATE_URI"])
def test_a_variable_against_a_file_is_told(world: World, write: Write, variable: str) -> None:
    write("work/project/lens.toml", 'default = "prod"\n[stores.prod]\nuri = "redis://p/0"')
    choice = chosen(with_env(world, **{variable: "sqlite:////x/a.db"}))
    expected = f"{variable} names sqlite:////x/a.db; lens.toml (line 1) names prod: taking {variable}"
    assert choice.overridden == expected


def test_a_conflict_names_a_file_elsewhere_by_its_path_and_masks_passwords(world: World, write: Write) -> None:
    path = write("work/flujo.toml", '\nstate_uri = "postgresql://u:hidden@h/a"')
    choice = chosen(with_env(world, LENS_STORE="postgresql://u:hidden@h/b"))
    expected = (
        f"LENS_STORE names postgresql://u:***@h/b; {path} (line 2) names postgresql://u:***@h/a: taking LENS_STORE"
    )
    assert choice.overridden == expected


@pytest.mark.parametrize(
    ("variable", "in_file"),
    [
        ("prod", "sqlite:///ops.db"),
        ("ops.db", "sqlite:///ops.db"),
        ("sqlite:///./ops.db", "ops.db"),
        ("postgres://u@h/d", "postgresql://u@h/d"),
        ("file:///var/states/", "/var/states"),
    ],
)
def test_the_same_store_is_no_conflict(world: World, write: Write, variable: str, in_file: str) -> None:
    write("work/project/lens.toml", f'[stores.prod]\nuri = "{in_file}"')
    assert chosen(with_env(world, LENS_STORE=variable)).overridden is None


def test_no_conflict_without_a_file_or_with_an_option(world: World, write: Write) -> None:
    set_ = with_env(world, LENS_STORE="redis://a/0")
    write("work/project/flujo_ops.db", "")
    assert chosen(set_).overridden is None
    write("work/project/lens.toml", 'default = "redis://b/0"')
    assert chosen(set_, "redis://c/0").overridden is None
    assert chosen(world).overridden is None


def test_a_default_that_cannot_be_told_counts_as_different(world: World, write: Write) -> None:
    write("work/project/lens.toml", '[stores.prod]\nuri = "redis://${NOPE}/0"')
    overridden = chosen(with_env(world, LENS_STORE="redis://a/0")).overridden
    assert overridden == "LENS_STORE names redis://a/0; lens.toml (line 1) names prod: taking LENS_STORE"


# --- merging and where it came from ----------------------------------------------------------------------


def test_defaults(world: World) -> None:
    settings = load_settings(world)
    assert settings.silent_after == timedelta(hours=1)
    assert (settings.timezone, settings.timeout) == (None, 10.0)
    assert (settings.bin_keep, settings.bin_max_runs) == (timedelta(days=7), 10000)
    assert (settings.resume_app, settings.prune_older_than, settings.prune_archive_dir) == (None, None, None)
    assert (settings.audit_path, settings.redact_keys) == (None, ())
    assert (settings.default_store, settings.stores, settings.drivers, settings.files) == (None, {}, {}, ())
    assert {row.source for row in settings.rows} == {"default"}
    assert value_of(settings, "bin.keep") == "7d"


def test_every_setting_of_the_documented_example_is_read(world: World, write: Write) -> None:
    path = write(
        "work/project/lens.toml",
        """default = "prod"
silent_after = "90m"                  # a comment
timezone = "America/Lima"
timeout = 2.5
[stores.prod]
uri = "postgresql://lens:pw@db/ops"
readonly = false
[stores.local]
uri = "sqlite:///flujo_ops.db"
readonly = true
[drivers]
dynamo = "acme_lens.dynamo:DynamoBackend"
[resume]
app = "myapp.pipelines:registry"
[prune]
older_than = "30d"
archive_dir = "archive"
[bin]
keep = "2w"
max_runs = 5
[audit]
path = "audit.ndjson"
[redact]
keys = ["*ssn*"]
[alerts]
failing_share = "5%"
oldest_waiting = "2d"
stale = 3
""",
    )
    settings = load_settings(world)
    assert settings.silent_after == timedelta(minutes=90)
    assert settings.timezone == ZoneInfo("America/Lima")
    assert settings.timeout == 2.5
    assert settings.stores["local"].readonly
    assert not settings.stores["prod"].readonly
    assert settings.drivers == {"dynamo": "acme_lens.dynamo:DynamoBackend"}
    assert settings.resume_app == "myapp.pipelines:registry"
    assert settings.prune_older_than == "30d"
    assert (settings.bin_keep, settings.bin_max_runs) == (timedelta(weeks=2), 5)
    alerts = settings.alerts_failing_share, settings.alerts_oldest_waiting, settings.alerts_stale
    assert alerts == (0.05, timedelta(days=2), 3)
    assert settings.redact_keys == ("*ssn*",)
    assert settings.files == (path,)
    rows = {row.key: (row.value, row.source) for row in settings.rows}
    assert rows == {
        "store": ("prod", f"{path}:1"),
        "default": ("prod", f"{path}:1"),
        "silent_after": ("90m", f"{path}:2"),
        "timezone": ("America/Lima", f"{path}:3"),
        "timeout": (2.5, f"{path}:4"),
        "stores.prod.uri": ("postgresql://lens:pw@db/ops", f"{path}:6"),
        "stores.prod.readonly": (False, f"{path}:7"),
        "stores.local.uri": (f"sqlite:///{world.cwd}/flujo_ops.db", f"{path}:9"),
        "stores.local.readonly": (True, f"{path}:10"),
        "drivers.dynamo": ("acme_lens.dynamo:DynamoBackend", f"{path}:12"),
        "resume.app": ("myapp.pipelines:registry", f"{path}:14"),
        "prune.older_than": ("30d", f"{path}:16"),
        "prune.archive_dir": (f"{world.cwd}/archive", f"{path}:17"),
        "bin.keep": ("2w", f"{path}:19"),
        "bin.max_runs": (5, f"{path}:20"),
        "audit.path": (f"{world.cwd}/audit.ndjson", f"{path}:22"),
        "redact.keys": (["*ssn*"], f"{path}:24"),
        "alerts.failing_share": ("5%", f"{path}:26"),
        "alerts.oldest_waiting": ("2d", f"{path}:27"),
        "alerts.stale": (3, f"{path}:28"),
    }
    assert len(rows) == len(settings.rows)


def test_files_merge_key_by_key_and_stores_by_name(world: World, write: Write) -> None:
    lens = write("work/lens.toml", '[bin]\nkeep = "1d"\n[stores.a]\nuri = "redis://lens/0"')
    project = write(
        "work/project/pyproject.toml",
        '[tool.flujo-lens]\nsilent_after = "2h"\n[tool.flujo-lens.bin]\nkeep = "2d"\nmax_runs = 2\n',
    )
    user = write("user/lens.toml", '[bin]\nmax_runs = 3\n[drivers]\nx = "m:A"\n[stores.b]\nuri = "user.db"')
    etc = write(
        "etc/lens.toml",
        'silent_after = "9h"\ntimeout = 4\n[drivers]\nx = "m:B"\ny = "m:C"\n'
        '[stores.a]\nuri = "redis://etc/0"\nreadonly = true',
    )
    settings = load_settings(world)
    assert settings.files == (lens, project, user, etc)
    assert (settings.bin_keep, settings.bin_max_runs) == (timedelta(days=1), 2)
    assert (settings.silent_after, settings.timeout) == (timedelta(hours=2), 4.0)
    assert settings.drivers == {"x": "m:A", "y": "m:C"}
    assert {name: entry.uri for name, entry in settings.stores.items()} == {
        "a": "redis://lens/0",
        "b": f"{user.parent}/user.db",
    }
    assert not settings.stores["a"].readonly
    assert source_of(settings, "stores.a.readonly") == "default"
    assert source_of(settings, "bin.keep") == f"{lens}:2"
    assert source_of(settings, "bin.max_runs") == f"{project} [tool.flujo-lens]"
    assert source_of(settings, "timeout") == f"{etc}:2"


def test_a_default_may_name_a_store_of_another_file(world: World, write: Write) -> None:
    write("work/project/lens.toml", 'default = "prod"')
    write("etc/lens.toml", '[stores.prod]\nuri = "redis://p/0"\n[stores.x]\nuri = "redis://x/0"')
    assert chosen(world).uri == "redis://p/0"


def test_timeout_option_over_variable_over_file(world: World, write: Write) -> None:
    write("work/project/lens.toml", "timeout = 3")
    assert load_settings(world).timeout == 3.0
    set_ = load_settings(with_env(world, LENS_TIMEOUT="0.5"))
    assert (set_.timeout, source_of(set_, "timeout")) == (0.5, "LENS_TIMEOUT")
    option = load_settings(with_env(world, LENS_TIMEOUT="0.5"), timeout=0)
    assert (option.timeout, source_of(option, "timeout")) == (0.0, "--timeout")


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1s", " "])
def test_a_wrong_timeout(world: World, text: str) -> None:
    with pytest.raises(ConfigError, match="LENS_TIMEOUT must be a number of seconds"):
        load_settings(with_env(world, LENS_TIMEOUT=text))


def test_a_wrong_timeout_option(world: World) -> None:
    with pytest.raises(ConfigError, match="--timeout must be a number of seconds, 0 or more"):
        load_settings(world, timeout=-1)


@pytest.mark.parametrize(
    ("env", "value", "source"),
    [
        ({"LENS_STORE": "redis://:pw@a/0"}, "redis://:pw@a/0", "LENS_STORE"),
        ({"FLUJO_STATE_URI": "redis://b/0"}, "redis://b/0", "FLUJO_STATE_URI"),
    ],
)
def test_the_store_row_names_the_variable(world: World, env: dict[str, str], value: str, source: str) -> None:
    settings = load_settings(with_env(world, **env))
    assert (value_of(settings, "store"), source_of(settings, "store")) == (value, source)
    assert value_of(settings, "default") is None


def test_the_store_row_of_the_usual_store(world: World, write: Write) -> None:
    path = write("work/project/flujo_ops.db", "")
    settings = load_settings(world)
    assert value_of(settings, "store") == f"sqlite:///{path}"
    assert source_of(settings, "store") == "flujo_ops.db in this folder"


# --- --config and LENS_CONFIG ----------------------------------------------------------------------------


def test_a_named_file_is_read_alone(world: World, write: Write) -> None:
    for name, text, _ in LEVELS[:5]:
        write(name, text)
    alone = write("work/other.toml", '[stores.only]\nuri = "only.db"')
    write("work/variable.toml", 'default = "redis://variable/0"')
    set_ = with_env(world, LENS_CONFIG="../variable.toml")
    assert load_settings(world, config="../other.toml").files == (alone,)
    assert chosen(set_).uri == "redis://variable/0"
    assert chosen(set_, config=str(alone)).uri == f"{alone.parent}/only.db"


def test_a_named_file_may_be_a_pyproject_or_flujo_toml(world: World, write: Write) -> None:
    write("x/pyproject.toml", '[tool.flujo-lens]\ndefault = "redis://p/0"')
    write("x/flujo.toml", 'state_uri = "redis://f/0"')
    assert chosen(world, config="../../x/pyproject.toml").uri == "redis://p/0"
    assert chosen(world, config="../../x/flujo.toml").uri == "redis://f/0"
    write("y/pyproject.toml", "[project]")
    with pytest.raises(ConfigError, match=r"has no \[tool.flujo-lens\] table"):
        load_settings(world, config="../../y/pyproject.toml")


def test_a_named_file_that_is_missing_or_a_folder(world: World) -> None:
    with pytest.raises(ConfigError, match=r"--config: no such file: .*/nope.toml"):
        load_settings(world, config="nope.toml")
    with pytest.raises(ConfigError, match="LENS_CONFIG: "):
        load_settings(with_env(world, LENS_CONFIG="nope.toml"))
    with pytest.raises(ConfigError, match="cannot read"):
        load_settings(world, config=".")


# --- ${VAR} ----------------------------------------------------------------------------------------------


def test_variables_are_replaced_in_every_text(world: World, write: Write) -> None:
    write(
        "work/project/lens.toml",
        'default = "${STAGE}"\nsilent_after = "${N}h"\n[stores.prod]\nuri = "postgresql://u:${PW}@h/d$$1$x"\n'
        '[stores.b]\nuri = "${DIR}/b.db"\n[drivers]\nx = "${MOD}:A"\n[redact]\nkeys = ["${N}*"]\n',
    )
    settings = load_settings(with_env(world, STAGE="prod", N="3", PW="a$$b", DIR="data", MOD="m"))
    assert settings.default_store == "prod"
    assert settings.silent_after == timedelta(hours=3)
    assert settings.stores["prod"].uri == "postgresql://u:a$$b@h/d$1$x"
    assert settings.stores["b"].uri == f"{world.cwd}/data/b.db"
    assert settings.drivers == {"x": "m:A"}
    assert settings.redact_keys == ("3*",)
    assert value_of(settings, "stores.prod.uri") == "postgresql://u:a$$b@h/d$1$x"


def test_a_missing_variable_matters_only_for_the_store_that_is_used(world: World, write: Write) -> None:
    path = write(
        "work/project/lens.toml",
        'default = "ok"\n[stores.ok]\nuri = "redis://ok/0"\n[stores.bad]\nuri = "redis://:${PGPASS}@h/0"',
    )
    settings = load_settings(world)
    bad = settings.stores["bad"]
    assert bad.uri == "redis://:${PGPASS}@h/0"
    assert bad.problem == f"{path} (line 5): stores.bad.uri needs the variable PGPASS, which is not set"
    assert settings.stores["ok"].problem is None
    assert chosen(world).name == "ok"
    with pytest.raises(ConfigError, match="PGPASS"):
        chosen(world, "bad")
    assert chosen(with_env(world, PGPASS="x"), "bad").uri == "redis://:x@h/0"


def test_a_missing_or_empty_variable_in_the_default(world: World, write: Write) -> None:
    write("work/project/lens.toml", 'default = "${WHERE}"')
    assert load_settings(world).default_store == "${WHERE}"
    with pytest.raises(ConfigError, match=r"line 1\): default needs the variable WHERE"):
        chosen(world)
    with pytest.raises(ConfigError, match=r"line 1\): default is empty once"):
        chosen(with_env(world, WHERE=""))
    assert chosen(world, "redis://other/0").uri == "redis://other/0"


def test_a_missing_variable_elsewhere(world: World, write: Write) -> None:
    write("work/project/lens.toml", '[resume]\n\napp = "${APP}:registry"')
    with pytest.raises(ConfigError, match=r"lens.toml \(line 3\): resume.app needs the variable APP") as caught:
        load_settings(world)
    assert "export APP=" in (caught.value.hint or "")


# --- what is wrong in a file -----------------------------------------------------------------------------

WRONG = [
    (
        '[bin]\n[store.prod]\nuri = "x.db"',
        2,
        r"store is not a setting. Did you mean stores\? Settings: default",
    ),
    ('defualt = "prod"', 1, r"defualt is not a setting. Did you mean default\?"),
    (
        '[stores.a]\nuri = "a.db"\nread_only = true',
        3,
        r"stores.a.read_only is not a setting. Did you mean readonly\?",
    ),
    ('[bin]\nkeeps = "1d"', 2, r"bin.keeps is not a setting. Did you mean keep\?"),
    ("[redact]\nzzz = 1", 2, "redact.zzz is not a setting. Settings: keys"),
    ("\nresume = 1", 2, "resume must be a table, not the number 1"),
    ('[stores]\nprod = "a.db"', 2, 'stores.prod must be a table, not the text "a.db"'),
    ('[[stores]]\nuri = "a.db"', 1, "stores must be a table, not a list"),
    ("[stores.prod]\nreadonly = true", 1, "stores.prod has no uri"),
    ("[stores.prod]\nuri = 5", 2, "stores.prod.uri must be a string in quotes, not the number 5"),
    ('[stores.prod]\nuri = ""', 2, "stores.prod.uri must not be empty"),
    (
        '[stores.a]\nuri="a.db"\nreadonly = "yes"',
        3,
        'stores.a.readonly must be true or false, not the text "yes"',
    ),
    ("default = 2024-01-01", 1, "default must be a string in quotes, not a date or time"),
    ("default = { name = 1 }", 1, "default must be a string in quotes, not a table"),
    ('silent_after = "soon"', 1, 'silent_after must be a duration like "1h", not the text "soon"'),
    ("silent_after = 60", 1, "silent_after must be a string in quotes, not the number 60"),
    ('[prune]\nolder_than = "3 months"', 2, "prune.older_than must be a duration"),
    ('[bin]\nkeep = "1h30m"', 2, "bin.keep must be a duration"),
    ("[bin]\nmax_runs = -1", 2, "bin.max_runs must be a whole number, 0 or more, not the number -1"),
    ("[bin]\nmax_runs = true", 2, "bin.max_runs must be a whole number, 0 or more, not true"),
    ("[bin]\nmax_runs = 1.5", 2, "bin.max_runs must be a whole number"),
    ("timeout = -1", 1, "timeout must be a number of seconds, 0 or more"),
    ("timeout = nan", 1, "timeout must be a number of seconds"),
    ('timeout = "10"', 1, 'timeout must be a number of seconds, 0 or more, not the text "10"'),
    (f"timeout = {'9' * 400}", 1, "timeout must be a number of seconds"),
    ('[redact]\nkeys = "*ssn*"', 2, "redact.keys must be a list of texts, not the text"),
    ("[redact]\nkeys = [\n1,\n]", 2, "redact.keys must be a list of texts, not a list"),
    ('[drivers]\nok = "a:B"\nx = "a.b.C"', 3, 'drivers.x must be "module:Class", not the text "a.b.C"'),
    ('[drivers]\nx = "a/b.py:C"', 2, 'drivers.x must be "module:Class"'),
    ("[drivers]\nx = 1", 2, "drivers.x must be a string"),
    ('timezone = "America/Limaa"', 1, "timezone must be a known time zone"),
    ('timezone = "America"', 1, "timezone must be a known time zone"),
    ('timezone = "../etc"', 1, "timezone must be a known time zone"),
    (
        'default = "prd"\n[stores.prod]\nuri = "x.db"',
        1,
        r'default names "prd".*Did you mean prod\? Stores: prod',
    ),
    ('default = "prod"', 1, "no such store; no settings file names a store"),
    ('a = "x"\nb = [1,\n', 2, "not valid TOML"),
    ("default = prod", 1, "not valid TOML"),
    (f"timeout = {'9' * 5000}", 1, "not valid TOML"),
]


@pytest.mark.parametrize(("text", "line", "message"), WRONG)
def test_a_mistake_is_named_with_file_line_and_key(
    world: World, write: Write, text: str, line: int, message: str
) -> None:
    path = write("work/project/lens.toml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_settings(world)
    assert caught.value.message.startswith(f"{path} (line {line}): ")
    assert caught.value.details["file"] == str(path)
    assert caught.value.details["line"] == line


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('timezone = "America/Limaa"', "Did you mean America/Lima?"),
        ('older_than = "30d"', "older_than belongs in [prune]"),
        ('[stores.a]\nuri = "a.db"\nsilent_after = "1h"', "silent_after belongs above the first [table]"),
        ('uri = "a.db"', "uri belongs in [stores.NAME]"),
        ('silent_after = "3mo"', "for months, days: 90d"),
    ],
)
def test_hints(world: World, write: Write, text: str, hint: str) -> None:
    write("work/project/lens.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_settings(world)
    assert hint in (caught.value.hint or "")


def test_a_mistake_in_any_file_counts_though_another_overrides_it(world: World, write: Write) -> None:
    write("work/project/lens.toml", 'default = "redis://a/0"\n[bin]\nkeep = "1d"')
    write("etc/lens.toml", "[bin]\nkeep = 7")
    with pytest.raises(ConfigError, match=r"etc/lens.toml \(line 2\): bin.keep"):
        load_settings(world)


def test_lines_in_a_pyproject(world: World, write: Write) -> None:
    path = write(
        "work/project/pyproject.toml",
        '[project]\nname = "x"\ntimeout = "no"\n[tool.x]\ntimeout = 1\n[tool.flujo-lens]\n\ntimeout = "no"',
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(world)
    assert caught.value.message.startswith(f"{path} (line 8): timeout must be")
    path.write_text('[tool.flujo-lens]\ndefault = "redis://a/0"')
    assert chosen(world).source == f"{path} [tool.flujo-lens]"
    overridden = chosen(with_env(world, LENS_STORE="redis://b/0")).overridden or ""
    assert "pyproject.toml (line 2) names redis://a/0" in overridden


def test_a_wrong_state_uri_is_named_as_it_is_written(world: World, write: Write) -> None:
    write("work/project/flujo.toml", "[settings]\nstate_uri = 5")
    with pytest.raises(ConfigError, match=r"flujo.toml \(line 2\): settings.state_uri must be a string"):
        load_settings(world)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[stores]\nx = { uri = 1 }", 2),
        ("stores.x.uri = 1", 1),
        ('[stores . "x"]\n  "uri"=1', 2),
        ("# uri = 1\n[ 'stores'.x ] # [y]\nuri = 1", 3),
        ("stores = { x = { uri = 1 } }", 1),
    ],
)
def test_lines_are_found_in_every_way_of_writing(world: World, write: Write, text: str, line: int) -> None:
    write("work/project/lens.toml", text)
    with pytest.raises(ConfigError, match=rf"\(line {line}\): stores.x.uri must be a string"):
        load_settings(world)


def test_a_file_that_is_not_utf8_or_has_a_byte_order_mark(world: World) -> None:
    path = world.cwd / "lens.toml"
    path.write_bytes(b'# one\ndefault = "caf\xe9.db"\n')
    with pytest.raises(ConfigError, match=r"lens.toml \(line 2\): not UTF-8"):
        load_settings(world)
    path.write_bytes(b'\xef\xbb\xbfdefault = "redis://a/0"\r\n[bin]\r\nkeep = "2d"\r\n')
    assert chosen(world).source == f"{path}:1"
    assert source_of(load_settings(world), "bin.keep") == f"{path}:3"


def test_a_file_that_cannot_be_read(world: World, write: Write) -> None:
    path = write("work/project/lens.toml", "")
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        with pytest.raises(ConfigError, match=f"cannot read {path}: Permission denied"):
            load_settings(world)
    else:
        pytest.skip("this user may read everything")


def test_a_folder_named_lens_toml_is_passed_over(world: World, write: Write) -> None:
    (world.cwd / "lens.toml").mkdir()
    write("work/lens.toml", 'default = "redis://up/0"')
    assert chosen(world).uri == "redis://up/0"


def test_utc_is_known_everywhere(world: World, write: Write) -> None:
    write("work/project/lens.toml", 'timezone = "UTC"')
    assert load_settings(world).timezone is UTC


# --- texts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://lens:s3cret@db/ops", "postgresql://lens:***@db/ops"),
        ("redis://:s3cret@h:6379/0", "redis://:***@h:6379/0"),
        ("redis://:12345@h:6379/0", "redis://:***@h:6379/0"),
        ("postgresql://u:p@s@db/ops", "postgresql://u:***@db/ops"),
        ("postgresql://u:p/s?x@db/ops", "postgresql://u:***@db/ops"),
        ("postgresql://u:@db", "postgresql://u:***@db"),
        (
            "could not reach redis://a:b@h, nor redis://c:d@h2.",
            "could not reach redis://a:***@h, nor redis://c:***@h2.",
        ),
        ("a://u:p@h,b://v:q@i", "a://u:***@h,b://v:***@i"),
        ("postgresql://db/ops?user=u&password=p%20x&x=1", "postgresql://db/ops?user=u&password=***&x=1"),
        ("x://h?sslpassword=a&PASSWORD=b", "x://h?sslpassword=***&PASSWORD=***"),
        ("//u:p@h", "//u:***@h"),
        ('{"a":"x://u:p@h","b":"c@d"}', '{"a":"x://u:***@h","b":"c@d"}'),
    ],
)
def test_passwords_are_masked(text: str, expected: str) -> None:
    assert masked_text(text) == expected
    assert masked_text(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////var/ops.db",
        "postgresql://lens@db:5432/ops",
        "redis://h:6379/0?prefix=me@x",
        "http://h:80/a@b",
        "http://[::1]:80/a@b",
        "see http://h: mail me@x.org",
        "a:b@c",
        "",
    ],
)
def test_other_texts_are_not_masked(text: str) -> None:
    assert masked_text(text) == text


def test_masking_a_long_text_takes_linear_time() -> None:
    for text in ("//" * 200_000, "//a:" * 100_000, "?a" * 200_000, "//a:" + "b" * 400_000):
        assert masked_text(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("10m", timedelta(minutes=10)),
        ("2h", timedelta(hours=2)),
        ("30d", timedelta(days=30)),
        (" 4w ", timedelta(weeks=4)),
        ("0s", timedelta(0)),
        ("007d", timedelta(days=7)),
    ],
)
def test_durations(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "1.5h", "3M", "3mo", "1h30m", "1 h", "１d", "999999999w", "9" * 5000 + "s"]
)
def test_wrong_durations(text: str) -> None:
    with pytest.raises(TimeFormatError) as caught:
        parse_duration(text)
    assert "90d" in (caught.value.hint or "")


# --- the real world --------------------------------------------------------------------------------------


def run_python(code: str, folder: Path, **env: str) -> str:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_a_world_of_its_own_accord(tmp_path: Path) -> None:
    user = tmp_path / "xdg/flujo-lens"
    user.mkdir(parents=True)
    (user / "lens.toml").write_text('default = "redis://user/0"')
    code = (
        "from flujo_lens.config import *; w = World(); s = load_settings(w)\n"
        "print(choose_store(w, s).uri, choose_store(w, s, 'a.db').uri)"
    )
    out = run_python(code, tmp_path, HOME=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path / "xdg"))
    assert out == f"redis://user/0 {tmp_path.resolve()}/a.db"


@pytest.mark.parametrize("xdg", ["", "relative", "/abs/xdg"])
def test_the_users_folder_is_the_platforms(tmp_path: Path, xdg: str) -> None:
    code = (
        "from flujo_lens.config_sources import World, _user_config_dir as ours\n"
        "from platformdirs import user_config_path as theirs\n"
        "print(ours(World()) == theirs('flujo-lens', appauthor=False))"
    )
    assert run_python(code, tmp_path, HOME=str(tmp_path), XDG_CONFIG_HOME=xdg) == "True"


def test_a_current_folder_that_was_deleted(tmp_path: Path) -> None:
    code = (
        "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "from flujo_lens.config import *; w = World()\n"
        "print(choose_store(w, load_settings(w), '/abs/a.db').uri)"
    )
    assert run_python(code, tmp_path, HOME=str(tmp_path), PWD=str(tmp_path)) == "/abs/a.db"


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from flujo_lens.config import *; w = World(); load_settings(w)\n"
        "heavy = {'pydantic', 'typer', 'rich', 'platformdirs', 'tomllib', 'zoneinfo', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    allowed = "[]" if sys.platform == "linux" else "['platformdirs']"
    assert run_python(code, tmp_path, HOME=str(tmp_path)) == allowed


@pytest.mark.parametrize(
    ("uri", "absolute"),
    [
        ("file:states", "file:///base/states"),
        ("file:../states", "file:///states"),
        ("sqlite:runs.db?mode=ro", "sqlite:////base/runs.db?mode=ro"),
        ("./file:states", "/base/file:states"),
    ],
)
def test_a_scheme_before_a_relative_path(uri: str, absolute: str) -> None:
    assert absolute_uri(uri, Path("/base"), "/home/me") == absolute


def test_a_broken_link_with_the_usual_name_is_the_store(world: World) -> None:
    """Its error says where the link leads, instead of that no store is selected."""
    (world.cwd / "flujo_ops.db").symlink_to("gone.db")
    assert choose_store(world, load_settings(world), None).uri == f"sqlite:///{world.cwd}/flujo_ops.db"
