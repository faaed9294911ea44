"""``lens help secrets``."""

from __future__ import annotations

from collections.abc import Iterator

from flujo_lens.cli.context import App


def lines(app: App) -> Iterator[str]:
    """The keys whose values are masked, and the secrets that are masked without a key."""
    from flujo_lens.redaction.keys import BUILT_IN_KEYS

    yield "Every command prints secrets as ***, in every format, unless --show-secrets. The audit log never has them."
    yield ""
    yield (
        "Text values of these keys are masked. * matches any characters, ? one; case is ignored, and "
        "accessToken, access-token and access token match access_token."
    )
    yield ""
    yield from _in_columns(BUILT_IN_KEYS)
    yield ""
    yield "More keys, in lens.toml:"
    yield ""
    yield "  [redact]"
    yield '  keys = ["*ssn*"]'
    yield ""
    added = app.redactor.keys.globs[len(BUILT_IN_KEYS) :]
    yield f"Added by the settings: {', '.join(added)}" if added else "Added by the settings: none"
    yield ""
    yield "The keys apply to inputs, outputs, contexts, metadata, span attributes and answers, and inside texts:"
    yield ""
    yield from _FORMS
    yield ""
    yield "Masked without a key:"
    yield ""
    yield from _WITHOUT_KEY
    yield ""
    yield (
        "Numbers, true, false and null are never masked, nor are run ids and step names. Archives and the "
        "store itself are not masked."
    )


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
    "  https://***@host/                         a long token in place of the user's name",
    "  Bearer ***  Basic ***                     credentials of HTTP",
    "  sk-, ghp_, gho_, ghs_, github_pat_        tokens with these beginnings, also glpat-, xoxb-, AIza and eyJ",
    "  -----BEGIN PRIVATE KEY-----               private keys in PEM",
    "  sig=***  X-Amz-Signature=***              signatures in URLs",
    "  curl -u user:***                          passwords of curl",
)


def _in_columns(keys: tuple[str, ...], number: int = 4) -> Iterator[str]:
    width = max(map(len, keys)) + 2
    for begin in range(0, len(keys), number):
        yield "  " + "".join(key.ljust(width) for key in keys[begin : begin + number]).rstrip()
