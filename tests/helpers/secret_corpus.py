"""Texts with secrets of 20 kinds, and texts without: what screens must mask, and what they must leave alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

HIDDEN = (
    "hush-1Q",
    "hushhush2",
    "HUSH2x9",
    "hush.3.x",
    "hush_4Z",
    "5hush5",
    "hush~6+x",
    "hush7=",
    "hush%408",
    "hush9é",
)
"""Parts of every secret; none of the texts without a secret has "hush" in it."""


def _request(secret: str) -> dict[str, object]:
    return {"headers": {"Authorization": f"Bearer {secret}"}, "api_key": secret, "n": 5, "note": "it's visible"}


def _nested(secret: str, times: int) -> str:
    text = json.dumps(_request(secret))
    for _ in range(times):
        text = json.dumps({"body": text, "status": 401})
    return text


def _cut(text: str, more: int) -> str:
    """`text` cut in the middle of its first secret, or behind the quote that ends it."""
    return text[: text.casefold().index("hush") + more]


def _basic(secret: str) -> str:
    return base64.b64encode(f"u:{secret}".encode()).decode()


KINDS: dict[str, tuple[Callable[[str], str], ...]] = {
    "python literal": (
        lambda s: repr({"api_key": s}),
        lambda s: f"ValueError: bad settings { ({'user': 'ana', 'password': s})!r}",
        lambda s: f"[('x', 1), {{'token': b'{s}'}}]",
    ),
    "nested literal": (
        lambda s: repr({"a": [{"b": {"client_secret": s}}], "n": 1}),
        lambda s: repr({"credentials": {"user": s, "more": [s, {"x": s}]}, "n": 1}),
        lambda s: repr({"text": repr({"inner": json.dumps({"access_token": s}), "q": "it's"})}),
    ),
    "repr of a model": (
        lambda s: f"Settings(url='http://x', api_key='{s}', retries=3)",
        lambda s: f"Client(auth=Auth(user='u', secret=Secret(value='{s}')), n=1)",
        lambda s: f"url='http://x' refresh_token='{s}' retries=3",
    ),
    "json": (
        lambda s: json.dumps(_request(s)),
        lambda s: json.dumps(_request(s), indent=2),
        lambda s: f'answered 401: {{"refreshToken":"{s}","expires_in":3600}}',
    ),
    "json in json": (lambda s: _nested(s, 1), lambda s: _nested(s, 2), lambda s: repr({"x": _nested(s, 2)})),
    "cut short": (
        lambda s: _cut(json.dumps({"n": 1, "password": s}), 5),
        lambda s: _cut(_nested(s, 2), 6),
        lambda s: _cut(repr({"n": 1, "db_password": s, "x": 1}), 5) + "…",
        lambda s: f"cannot reach postgresql://ana:{s[:6]}",
    ),
    "query of a url": (
        lambda s: f"GET https://api.example.org/v1/x?api_key={s}&page=2 answered 500",
        lambda s: f"https://example.org/cb?state=1&token={s}#top",
        lambda s: f"see https://example.org/login?next=%2Fx%3Faccess_token%3D{s}%26y",
        lambda s: f"see https://example.org/x?user=ana&password={s}.",
    ),
    "environment": (
        lambda s: f"export API_KEY={s}",
        lambda s: f"DATABASE_PASSWORD='{s}' python app.py",
        lambda s: f"env: PATH=/bin AWS_SECRET_ACCESS_KEY={s} HOME=/root",
    ),
    "command line": (
        lambda s: f"psql --host db --password {s} -c 'select 1'",
        lambda s: f"deploy --token={s} --verbose",
        lambda s: f"CalledProcessError: Command {['tool', '--api-key', s, 'run']!r} returned 1",
    ),
    "bearer": (
        lambda s: f"sent Bearer {s} to the server",
        lambda s: f"curl -H 'Accept: x' -H 'X: Bearer {s}' https://x",
        lambda s: f"bearer {s.replace('é', 'e')}-{'0' * 12}",
    ),
    "authorization": (
        lambda s: f"Authorization: Bearer {s}",
        lambda s: f"> authorization: {s}1\r\n> accept: */*",
        lambda s: f"Proxy-Authorization: Basic {_basic(s)}",
        lambda s: f'Authorization: Digest username="ana", realm="x", response="{s}"',
    ),
    "cookie": (
        lambda s: f"Cookie: sid={s}; theme=dark",
        lambda s: f"Set-Cookie: sid={s}; Path=/; HttpOnly",
        lambda s: repr({"cookies": {"sid": s}}),
        lambda s: f'curl -b x -H "Cookie: sid={s}; a=b" https://x',
    ),
    "address": (
        lambda s: f"postgresql://ana:{s}@db:5432/ops",
        lambda s: f"cannot reach redis://:{s}@cache/0: timed out",
        lambda s: json.dumps({"url": f"amqp://u:{s}@mq/v"}).replace("/", "\\/"),
    ),
    "address with signs in its password": (
        lambda s: f"postgresql://ana:p@{s}/x@db/ops",
        lambda s: f"mysql://ana:{s}:a#b?c@db:3306/ops",
        lambda s: f"postgresql://ana:it's{s}//@h1,h2:5432/ops",
    ),
    "connection string": (
        lambda s: f"host=db user=ana password={s} dbname=ops",
        lambda s: f"host=db password='it\\'s {s}' dbname=ops",
        lambda s: f"Server=db;User Id=ana;Password={s};Timeout=3",
        lambda s: f"AccountName=x;AccountKey={s};EndpointSuffix=y",
    ),
    "yaml and ini": (
        lambda s: f"db:\n  user: ana\n  password: {s}\n  port: 5432",
        lambda s: f"[db]\npassword = {s}\nport = 1",
        lambda s: f"first\\napi_key: {s}\\nlast",
        lambda s: f"X-Api-Key: {s}",
    ),
    "basic": (
        lambda s: f"sent Basic {_basic(s)} to it",
        lambda s: f"basic {_basic(s)}",
        lambda s: f"curl -u ana:{s} https://x",
    ),
    "traceback": (
        lambda s: f'File "app.py", line 3, in go\n    connect(user="ana", password="{s}")\nTimeoutError',
        lambda s: f"    def go(x: int, api_key: str = '{s}') -> None:",
        lambda s: f"    os.environ['API_KEY'] = \"{s}\"",
        lambda s: (
            f"1 validation error for Settings\napi_key\n  Value error, too short [type=value_error, input_value='{s}', "
            "input_type=str]"
        ),
    ),
    "names and values": (
        lambda s: f"<user>ana</user><password>{s}</password>",
        lambda s: json.dumps([{"name": "API_KEY", "value": s}, {"name": "PATH", "value": "/bin"}]),
        lambda s: repr([("Accept", "x"), ("Authorization", s)]),
        lambda s: f"CREATE USER ana WITH PASSWORD '{s}'",
    ),
    "forms that only secrets have": (
        lambda s: f"Incorrect API key provided: sk-proj-{'hush0' * 5}",
        lambda s: f"remote: https://ana:x@github.com ghp_{'hush0' * 6}",
        lambda s: f"eyJhbGciOiJI.eyJ{'hush0' * 4}.{'hush' * 4}",
        lambda s: f"-----BEGIN RSA PRIVATE KEY-----\n{'hush' * 9}\n-----END RSA PRIVATE KEY-----",
        lambda s: f"https://b.s3.example.org/x?X-Amz-Signature=hush{'0' * 60}",
    ),
}

WITH_SECRETS: list[tuple[str, str]] = [
    (kind, makers[n % len(makers)](secret)) for kind, makers in KINDS.items() for n, secret in enumerate(HIDDEN)
]
"""200 texts, ten of each kind."""

_NAMES = (
    "token_count",
    "password_reset",
    "rotate_tokens",
    "cookie_policy",
    "secretary",
    "tokenizer",
    "monkey",
    "author",
)
_SENTENCES = (
    "the token limit was reached", "the password was wrong", "Authorization failed", "cookie policy", "no such secret",
    "bearer of bad news", "Bearer token missing", "Bearer authentication is required", "Basic authentication failed",
    "the basic plan has 3 seats", "secretary: Ann Smith", "a secret: never give up", "the cookie: it crumbles",
    "invalid token: expected a brace", "unexpected token: ')'", "Unexpected token '<', \"<!DOCTYPE\" is not valid JSON",
    "unexpected token: EOF in line 3", "password: required", "api_key: missing", "token: expired", "secret: none",
    "missing key 'api_key': check the settings", "KeyError: 'api_key'", "KeyError: 'Authorization'",
    "api_key\n  Field required [type=missing, input_value={}, input_type=dict]", "use --password to set it",
    "lens system set KEY JSON", "--token TOKEN", "tests/test_x.py::token::test_y", "mail ann@example.org, please",
    "git@github.com:ann/x.git", "ssh://git@github.com/ann/x.git", "http://localhost:8080/user@example",
    "http://[::1]:8080/a@b", "redis://h:6379,redis://i:6379/0?x=a@b", "see http://h:80/a and mail b@c",
    "https://example.org/?page=2&size=10", "https://example.org/search?q=cookie+recipes", "sqlite:////var/ops.db",
    "postgresql://lens@db:5432/ops", "postgresql://flujo_lens_reader_2024@db/ops", "ssh://ec2-user-2024-prod-a1@host",
    "postgresql://svc.reporting.production@db/ops", "redis://cluster-user-0001@cache",
    "12:30:45 started", "C:\\token\\x", "a:b@c",
    "WWW-Authenticate: Bearer realm=\"x\"",
    "SecretStr('**********')", "password=***", "api_key=None", "api_key=${API_KEY}", "token=True", "max_tokens=100",
    "tokens=12", "token: 12", "next_token: 5", "token_count: 5", "token_counts=12", "tokenizer=gpt2",
    "sk-learn is nice",
    "the disk-sk-x of it", "the password_reset: card declined", "step 'rotate_tokens' failed: refused",
    "access denied for user 'ana'", "the api: it is down", "the private key was not found", "no credentials were given",
    "tokenization: wordpiece", "the passwords differ in 3 places", "cookies are off", "dsn", "windsnow", "=", ":",
    "key=",
    "token", "token:", "token=", "password: ", "Bearer ", "Cookie:", "//", "@", "user:@",
    "--password is asked for", "a=b&c=d",
    "error: step password_reset: timed out", "the account: 5 items", "access: granted", "api: v2", "private: yes",
)  # fmt: skip
_LITERALS: tuple[object, ...] = (
    {"token_count": 12, "step": "token_count"}, {"token_counts": {"input": 5}}, {"step_name": "password_reset"},
    {"next_token": 5}, {"token": 12}, {"password": None, "secret": True}, {"api_key": ""}, {"secretary": "Ann"},
    {"monkey": "bananas"}, {"max_tokens": 100, "tokens": ["a", "b"]}, {"tokenizer": "gpt2"},
    {"cookie_policy": "strict"},
    {"password_changed": True}, {"token_type": "bearer"}, {"author": "Ann", "authority": "x"}, ["api_key", "password"],
    {"fields": ["token", "name"]}, {"name": "PATH", "value": "/bin"}, {"passwordless": "yes"},
    {"token_limit": "reached"},
)  # fmt: skip


def _without() -> list[str]:
    made = [*_SENTENCES, *map(json.dumps, _LITERALS), *map(repr, _LITERALS)]
    made += [json.dumps({"body": json.dumps(literal)}) for literal in _LITERALS]
    for name in _NAMES:
        made += [name, f"{name} failed", f"at step {name!r}: timed out", f"{name} ran 3 times, the last one at 12:30"]
        made += [
            f"{name}=3",
            f"{name}: 3 of 5",
            f"step {name} is done; next: {name}_2",
            f"https://example.org/{name}?x=1",
        ]
    return list(dict.fromkeys(made))


WITHOUT_SECRETS = _without()
"""200 texts or more in which nothing is to be masked."""
