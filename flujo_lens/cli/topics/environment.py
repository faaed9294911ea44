"""``lens help environment``."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_lens.cli.context import App

VARIABLES: dict[str, str] = {
    "LENS_STORE": "Name, URI or path of the store. --store takes precedence.",
    "FLUJO_STATE_URI": "The store, if LENS_STORE is not set: the variable of the Flujo library.",
    "LENS_CONFIG": "Read settings only from this file. --config takes precedence.",
    "LENS_TIMEOUT": "Seconds to wait for a lock or connection (default 10). --timeout takes precedence.",
    "LENS_LEASE": "How long a claim on a run lasts without a heartbeat: 30, 90s, 5m (default 30 seconds).",
    "LENS_KEY": "Keys to encrypt and decrypt stored states, separated by commas.",
    "LENS_KEY_FILE": "A file of such keys, one per line, readable only by its owner.",
    "LENS_ACTOR": "Who changes the store, for the audit log (default: the login name).",
    "NO_COLOR": "If not empty, no color. It takes precedence over FORCE_COLOR.",
    "FORCE_COLOR": "If not empty, color also in a pipe.",
    "TERM": "dumb: no color.",
    "COLUMNS": "Width of the output, in place of that of the terminal.",
    "HOME": "Folder of the user: ~ in paths, and the default of the three below.",
    "XDG_CONFIG_HOME": "Folder of flujo-lens/lens.toml, the settings of the user (default ~/.config).",
    "XDG_CACHE_HOME": "Folder of the listing cache of folders of JSON files (default ~/.cache).",
    "XDG_STATE_HOME": "Folder of the audit logs and bins of servers (default ~/.local/state).",
    "TZ": "The time zone of times on screens, and of times that are typed without one.",
    "PYTHONPATH": "More folders to import drivers and applications from.",
    "TMPDIR": "Folder of temporary files: of imports, and of lists of a folder without a cache (default /tmp).",
    "SQLITE_TMPDIR": "Folder of the temporary files of SQLite, such as those of lens optimize --vacuum; else TMPDIR.",
}
"""Environment variable -> its use."""


def lines(app: App) -> Iterator[str]:
    """The environment variables that lens reads, and their precedence."""
    yield "lens reads these environment variables:"
    yield ""
    width = max(map(len, VARIABLES)) + 2
    yield from (f"  {name:<{width}}{about}" for name, about in VARIABLES.items())
    yield ""
    yield (
        "An option takes precedence over a variable, and a variable over a file of settings. A command that changes a "
        "store refuses if a variable and a file name different stores. In a file, ${NAME} is replaced by a variable."
    )
    yield ""
    yield "lens config shows every setting, its value, and where it came from."
