"""``lens resume``, ``retry`` and ``fork`` of encrypted runs: what they save is encrypted, too."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from pipelines import Shop
from support import Lens

pytest.importorskip("cryptography")

from flujo_lens.serialization.keys import new_key

BEGIN = """
import sys
import shop
from flujo_lens import Flujo
from flujo_lens.serialization.envelope import Envelope
from flujo_lens.serialization.keys import KeyRing
from flujo_lens.state.backends.file import FileBackend
from flujo_lens.state.backends.sqlite import SQLiteBackend

store, key, name, text, run_id = sys.argv[1:]
envelope = Envelope("zlib", keys=KeyRing.parse(key)) if key else None
backend = (SQLiteBackend if store.endswith(".db") else FileBackend)(store, envelope=envelope)
Flujo(registry=shop.registry, pipeline_name=name, state_backend=backend).run(text, run_id=run_id)
"""


def _stored(shop: Shop) -> bytes:
    """Every byte of the store and of its bin."""
    if shop.store.endswith(".db"):
        with closing(sqlite3.connect(shop.cwd / shop.store)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    paths = [path for path in shop.cwd.rglob("*") if path.is_file() and shop.store in str(path.relative_to(shop.cwd))]
    return b"".join(path.read_bytes() for path in paths if "lens-audit" not in path.name)


@pytest.mark.parametrize("store", ["runs.db", "runs"])
def test_an_encrypted_run_stays_encrypted_and_others_plain(bare_lens: Lens, store: str) -> None:
    shop, key, app = Shop(bare_lens, store), f"one:{new_key()}", "--app shop:registry"
    shop.python(BEGIN, store, key, "billing", "closed-input", "waits")
    shop.python(BEGIN, store, key, "billing", "closed-input", "forked")
    shop.python(BEGIN, store, "", "billing", "open-input", "plain")
    broken = bare_lens.write("broken", "")
    shop.python(BEGIN, store, key, "orders", "closed-input", "failed")
    broken.unlink()
    assert b"open-input" in _stored(shop)
    env = {"LENS_KEY": key}
    for line in (
        f"resume waits --input closed-answer {app}",
        f"resume plain --input open-answer {app}",
        f"retry failed {app}",
        "fork forked --from-step load --cancel-old",
    ):
        done = bare_lens.process(line, env=env)
        assert done.code == 0, done.err
    stored = _stored(shop)
    for word in ("closed-input", "CLOSED-INPUT", "closed-answer"):
        assert word.encode() not in stored, word
    assert b"open-answer" in stored
    assert bare_lens.process("show waits --final-output", env=env).json == "charged closed-answer"
    assert bare_lens.process("show plain --final-output").json == "charged open-answer"
