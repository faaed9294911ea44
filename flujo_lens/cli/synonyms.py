"""Words that people try first, and the command lines here that do the same."""

from __future__ import annotations

from typing import Any

from flujo_lens.errors import UsageError, nearest

SYNONYMS: dict[str, str] = {
    **dict.fromkeys(("ls", "ll", "ps", "runs", "jobs", "get", "query"), "list"),
    **dict.fromkeys(("find", "search", "grep"), "list --search TEXT"),
    **dict.fromkeys(("count", "wc"), "list --count"),
    **dict.fromkeys(("describe", "inspect", "info", "view", "cat", "steps"), "show RUN"),
    **dict.fromkeys(("logs", "log", "tree", "timeline", "events"), "trace RUN"),
    **dict.fromkeys(("dashboard", "overview", "summary"), "status"),
    **dict.fromkeys(("top", "monitor"), "watch"),
    **dict.fromkeys(("tail", "follow"), "watch RUN"),
    **dict.fromkeys(("cost", "costs", "spend", "usage", "tokens"), "stats --by pipeline --sort cost"),
    **dict.fromkeys(("slowest", "slow"), "list --sort duration"),
    **dict.fromkeys(("compare", "cmp"), "diff RUN RUN"),
    **dict.fromkeys(("errors", "failures", "failing"), "failed"),
    **dict.fromkeys(("paused", "pending", "inbox", "approvals"), "waiting"),
    **dict.fromkeys(("approve", "answer", "continue", "run", "start", "unpause"), "resume RUN"),
    **dict.fromkeys(("rerun", "restart", "replay", "redo"), "retry RUN..."),
    **dict.fromkeys(("kill", "stop", "abort", "terminate"), "cancel RUN..."),
    **dict.fromkeys(("rm", "remove", "del", "drop"), "delete RUN..."),
    **dict.fromkeys(("gc", "clean", "cleanup", "purge", "expire"), "prune --older-than 30d --dry-run"),
    "archive": "prune --older-than 30d --archive FILE --dry-run",
    **dict.fromkeys(("backup", "dump", "snapshot"), "export FILE"),
    **dict.fromkeys(("cp", "sync", "mv", "move"), "copy FROM TO"),
    **dict.fromkeys(("restore", "undelete", "revert", "recover"), "undo"),
    "load": "import FILE",
    **dict.fromkeys(("create", "new"), "init URI"),
    **dict.fromkeys(("fsck", "verify", "validate", "health", "ping"), "doctor"),
    **dict.fromkeys(("repair", "fix", "heal"), "doctor --fix"),
    **dict.fromkeys(("vacuum", "shrink", "compact", "defrag"), "optimize --vacuum"),
    **dict.fromkeys(("analyze", "reindex"), "optimize"),
    **dict.fromkeys(("upgrade", "update"), "migrate"),
    **dict.fromkeys(("history", "changes"), "audit list"),
    **dict.fromkeys(("children", "background", "workers"), "tasks list"),
    "sweep": "tasks sweep",
    **dict.fromkeys(("scores", "scoring", "evaluations"), "evals"),
    **dict.fromkeys(("settings", "configure", "env"), "config"),
    **dict.fromkeys(("drivers", "backends"), "stores --drivers"),
    **dict.fromkeys(("sample", "example", "examples", "tutorial", "try"), "demo"),
    **dict.fromkeys(("doc", "docs", "man", "manual", "topics"), "help"),
    **dict.fromkeys(("why", "error", "code"), "explain CODE"),
    **dict.fromkeys(("completions", "autocomplete"), "completion SHELL"),
    "version": "--version",
}
"""Words of other tools -> command lines, without ``lens``. Words in capitals are placeholders."""


def unknown_command(app: Any, words: list[str], commands: dict[str, Any]) -> UsageError:
    """The error for a first word that is not a command: it names the command that does this, or the nearest name.

    Args:
        app: The `App`, whose options the suggested command repeats.
        words: The command line from that word on.
        commands: The commands by name.
    """
    name = words[0]
    hint = "lens --help lists the commands"
    word = name if name in SYNONYMS else nearest(name, [*commands, *SYNONYMS])
    if word in SYNONYMS and word not in commands:
        line = app.suggest(f"lens {_filled(SYNONYMS[word], words[1:])}")
        return UsageError(f"there is no command {name}; try {line}", hint=hint)
    said = f'unknown command "{name}".' + (f" Did you mean {word}?" if word else "")
    return UsageError(said, hint=hint, value=name, near=word)


def _filled(line: str, typed: list[str]) -> str:
    """The command line with the run ids that were typed, if nothing else was."""
    import shlex

    takes = next((end for end in ("RUN...", "RUN RUN", "RUN") if line.endswith(end)), None)
    is_other = takes is not None and takes != "RUN..." and len(typed) != len(takes.split())
    if takes is None or is_other or not typed or any(word.startswith("-") for word in typed):
        return line
    return line.removesuffix(takes) + shlex.join(typed)
