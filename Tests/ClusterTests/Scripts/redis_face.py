"""Drives a node through redis-py: redis_face.py HOST PORT OTHER_PORT. Fails with a traceback."""

import sys
import time

import redis

host, port, other_port = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
r = redis.Redis(host=host, port=port, socket_timeout=20)
other = redis.Redis(host=host, port=other_port, socket_timeout=20)


def refused(call, *fragments):
    try:
        value = call()
    except redis.ResponseError as error:
        for fragment in fragments:
            assert fragment in str(error), (fragment, str(error))
        return
    raise AssertionError("not refused: %r" % (value,))


# the connection
assert r.ping() and r.echo("hello") == b"hello"
assert r.execute_command("SELECT", 0)
refused(lambda: r.execute_command("SELECT", 1), "")
hello = r.execute_command("HELLO", 2)
assert r.info()["redis_version"] == hello[hello.index(b"version") + 1].decode()
assert r.execute_command("CLIENT", "SETNAME", "me") and r.client_getname() in ("me", b"me")
assert len(r.execute_command("COMMAND")) > 30
assert r.dbsize() == 0

# strings
assert r.set("s", "v") is True and r.get("s") == b"v" and other.get("s") == b"v"
assert r.set("s", "w", nx=True) is None and r.set("new", "w", nx=True) is True
assert r.set("s", "x", xx=True) is True and r.set("none", "x", xx=True) is None
assert r.set("s", "y", get=True) == b"x" and r.get("s") == b"y"
assert r.setnx("s", "z") is False and r.setnx("t", "z") is True
assert r.getset("s", "q") == b"y" and r.getdel("s") == b"q" and r.get("s") is None
assert r.append("a", "one") == 3 and r.append("a", "two") == 6 and r.strlen("a") == 6
binary = bytes(range(256)) * 16
assert r.set(binary[:100], binary) and r.get(binary[:100]) == binary
assert r.exists("a", "t", "none") == 2 and r.delete("a", "t", "none") == 2

# numbers
assert r.incr("n") == 1 and r.incrby("n", 41) == 42 and r.decr("n") == 41 and r.decrby("n", 51) == -10
r.set("word", "abc")
refused(lambda: r.incr("word"), "not an integer")
r.set("big", str(2**63 - 1))
refused(lambda: r.incr("big"), "increment or decrement would overflow")
assert r.get("big") == str(2**63 - 1).encode()

# no transactions: whoever sends one hears of it, and what was in it was executed
refused(lambda: r.pipeline().incr("piped").execute(), "EXEC without MULTI")
assert r.get("piped") == b"1"
assert r.pipeline(transaction=False).incr("piped").delete("piped").execute() == [2, 1]

# many keys, on all shards
keys = [("%c-%d" % (first, number)).encode() for first in range(0x21, 0x7F) for number in range(3)]
assert r.mset({key: b"v" + key for key in keys})
assert other.mget(keys + [b"none"]) == [b"v" + key for key in keys] + [None]
r.delete("new", "n", "word", "big", binary[:100])
assert r.dbsize() == len(keys) == other.dbsize()
assert sorted(r.scan_iter(count=20)) == sorted(keys)
assert sorted(r.scan_iter(match="A-*")) == [b"A-0", b"A-1", b"A-2"]

# pipelines keep the order of answers
pipe = r.pipeline(transaction=False)
for number in range(200):
    pipe.set("p", number)
    pipe.get("p")
    pipe.incr("count")
answers = pipe.execute()
assert answers[1::3] == [str(number).encode() for number in range(200)], answers[1::3]
assert answers[2::3] == list(range(1, 201))

# expiry
assert r.set("e", "v", ex=100) and 95 <= r.ttl("e") <= 100 and 95_000 < other.pttl("e") <= 100_000
assert r.persist("e") and r.ttl("e") == -1 and r.ttl("none") == -2
assert r.expire("e", 50) and 45 <= r.ttl("e") <= 50
assert r.set("e", "w", keepttl=True) and 45 <= r.ttl("e") <= 50
assert r.set("e", "x") and r.ttl("e") == -1
assert r.set("short", "v", px=300) and r.get("short") == b"v"
time.sleep(0.5)
assert r.get("short") is None and other.get("short") is None and r.exists("short") == 0

# errors in Redis's words; the connection goes on
refused(lambda: r.execute_command("NOSUCH", "x"), "unknown command")
refused(lambda: r.execute_command("GET"), "wrong number of arguments")
refused(lambda: r.execute_command("SET", "k", "v", "NX", "XX"), "syntax error")
refused(lambda: r.execute_command("SET", "k", "v", "EX", "0"), "invalid expire")
refused(lambda: r.execute_command("LPUSH", "k", "v"), "unknown command")
refused(lambda: r.set("k" * 65537, "v"), "key must be")
refused(lambda: r.set("k", "v" * (8 * 1024 * 1024 + 1)), "value must be")
assert r.set("k", "v" * (8 * 1024 * 1024)) and len(other.get("k")) == 8 * 1024 * 1024
assert r.ping()
print("redis-py: done")
