"""``lens help secrets``."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_lens.cli.context import App

__all__ = ["lines"]


def lines(app: App) -> Iterator[str]:
    """The keys whose values are masked, and the forms of secrets that need no key."""
    from flujo_lens.redaction.keys import BUILT_IN_KEYS

    yield "Secrets are shown as *** by every command, in every format, unless --show-secrets. The audit log has none."
    yield ""
    yield "Masked are texts under these keys. * stands for any characters, ? for one; case does not matter, and"
    yield "accessToken, access-token and access token are also access_token."
    yield ""
    yield from _in_columns(BUILT_IN_KEYS)
    yield ""
    yield "More keys, in lens.toml:"
    yield ""
    yield "  [redact]"
    yield '  keys = ["*ssn*"]'
    yield ""
    added = app.redactor.keys.globs[len(BUILT_IN_KEYS) :]
    yield f"Added by the settings: {', '.join(added)}" if added else "The settings add none."
    yield ""
    yield "The keys count in inputs, outputs, contexts, metadata, attributes of spans and answers, and inside texts:"
    yield ""
    yield from _FORMS
    yield ""
    yield "Masked without a key:"
    yield ""
    yield from _WITHOUT_KEY
    yield ""
    yield "Numbers, true, false and null are never masked, nor are ids of runs and names of steps. Archives and the"
    yield "store itself keep everything as it is."


_FORMS = (
    "  {'api_key': '***'}, {\"api_key\": \"***\"}    Python literals and JSON, also nested in texts and cut short",
    "  Settings(api_key='***')                   reprs of dataclasses and models",
    "  ?api_key=***  &token=***                  queries of URLs",
    "  export API_KEY=***  --password ***        environments and command lines",
    "  host=db password=***                      connection strings",
    "  Authorization: ***  Cookie: ***           headers",
    "  password: ***  <password>***</password>   YAML and XML",
)
_WITHOUT_KEY = (
    "  postgresql://user:***@host/db             passwords in URLs",
    "  Bearer ***  Basic ***                     credentials of HTTP",
    "  tokens that begin with sk-, ghp_, gho_, ghs_, github_pat_, glpat-, xoxb-, AIza or eyJ; private keys in PEM;",
    "  signatures in URLs (sig=, X-Amz-Signature=); curl -u user:***",
)


def _in_columns(keys: tuple[str, ...], number: int = 4) -> Iterator[str]:
    width = max(map(len, keys)) + 2
    for begin in range(0, len(keys), number):
        yield "  " + "".join(key.ljust(width) for key in keys[begin : begin + number]).rstrip()
