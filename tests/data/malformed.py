"""Requests that a server must refuse, each with the statuses that may answer it. Data only.

Text is Latin-1: "\\xff" is that byte. What follows a refused request must never be taken for a request of its own, so
many are followed by `SMUGGLED`, which would publish to the channel "bystander".
"""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """``status`` lists what the first answer may be. ``closes``: the framing is in doubt, so EOF must follow."""

    name: str
    request: bytes
    status: tuple[int, ...]
    closes: bool


HOST = "Host: localhost"
JSON = "Content-Type: application/json"
NDJSON = "Content-Type: application/x-ndjson"
CHUNKED = "Transfer-Encoding: chunked"
KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = "Sec-WebSocket-Version: 13"
POST = "POST /a HTTP/1.1"
BIG = 64 * 1024
MAX_BODY = 1 << 20


def head(line: str, *fields: str) -> bytes:
    """A request without a Host field unless one is given."""
    return "".join(f"{text}\r\n" for text in (line, *fields, "")).encode("latin-1")


def get(target: str, *fields: str) -> bytes:
    return head(f"GET {target} HTTP/1.1", HOST, *fields)


def method(name: str, target: str = "/a") -> bytes:
    return head(f"{name} {target} HTTP/1.1", HOST)


def version(name: str, verb: str = "GET") -> bytes:
    return head(f"{verb} /a {name}", HOST)


def post(target: str, body: str, *fields: str) -> bytes:
    return head(f"POST {target} HTTP/1.1", HOST, *fields, f"Content-Length: {len(body)}") + body.encode("latin-1")


SMUGGLED = post("/bystander", '"smuggled"', JSON)


def framed(*fields: str, body: str = "hello", line: str = POST) -> bytes:
    """A body that the given fields delimit, and then what might be smuggled."""
    return head(line, HOST, *fields) + body.encode("latin-1") + SMUGGLED


def length(value: str) -> bytes:
    return framed(f"Content-Length: {value}")


def coded(*fields: str, line: str = POST) -> bytes:
    return framed(*fields, body="5\r\nhello\r\n0\r\n\r\n", line=line)


def chunks(body: str, end: str = "0\r\n\r\n") -> bytes:
    return framed(CHUNKED, body=body + end)


def trailer(end: str) -> bytes:
    return chunks("5\r\nhello\r\n", end)


def websocket(*fields: str, line: str = "GET /a HTTP/1.1", body: bytes = b"") -> bytes:
    return head(line, HOST, "Connection: Upgrade", "Upgrade: websocket", *fields) + body


def subscribe(channels: int) -> bytes:
    return get("/-/subscribe?" + "&".join(f"channel=c{number}" for number in range(channels)))


# Not HTTP, or HTTP of which nobody can say for sure where it ends: 400, and the connection is closed.
UNPARSABLE = {
    "Content-Length and Transfer-Encoding": coded("Content-Length: 5", CHUNKED),
    "Transfer-Encoding and Content-Length": coded(CHUNKED, "Content-Length: 5"),
    "doubled Content-Length, the same": framed("Content-Length: 5", "Content-Length: 5"),
    "doubled Content-Length, differing": framed("Content-Length: 5", "Content-Length: 0"),
    "Content-Length with plus": length("+5"),
    "Content-Length with underscore": length("1_0"),
    "Content-Length negative": length("-1"),
    "Content-Length hexadecimal": length("0x5"),
    "Content-Length fractional": length("5.0"),
    "Content-Length list": length("5, 5"),
    "Content-Length list with empty member": length("5,"),
    "Content-Length empty": length(""),
    "Content-Length with inner space": length(" 5 5"),
    "Content-Length with vertical tab": length("5\x0b"),
    "Content-Length non-ASCII digit": length("\xb2"),
    "Content-Length, space before colon": framed("Content-Length : 5"),
    "Content-Length in obs-fold": framed("Content-Length:\r\n 5"),
    "Transfer-Encoding in HTTP/1.0": coded(CHUNKED, line="POST /a HTTP/1.0"),
    "Transfer-Encoding, space before colon": coded("Transfer-Encoding : chunked"),
    "Transfer-Encoding, tab before colon": coded("Transfer-Encoding\t: chunked"),
    "Transfer-Encoding in obs-fold": coded("Transfer-Encoding:\r\n chunked"),
    "obs-fold after Transfer-Encoding": coded(CHUNKED, " , identity"),
    "Transfer-Encoding with vertical tab": coded("Transfer-Encoding: \x0bchunked"),
    "Transfer-Encoding after bare CR": coded("X: a\rTransfer-Encoding: chunked"),
    "Transfer-Encoding after bare LF": coded("X: a\nTransfer-Encoding: chunked"),
    "chunk size 0x5": chunks("0x5\r\nhello\r\n"),
    "chunk size with space after": chunks("5 \r\nhello\r\n"),
    "chunk size with space before": chunks(" 5\r\nhello\r\n"),
    "chunk size with plus": chunks("+5\r\nhello\r\n"),
    "chunk size negative": chunks("-1\r\nhello\r\n"),
    "chunk size with underscore": chunks("0_5\r\nhello\r\n"),
    "chunk size no digit": chunks("g\r\nhello\r\n"),
    "chunk size empty": chunks("\r\nhello\r\n"),
    "chunk size only extension": chunks(";a\r\nhello\r\n"),
    "chunk size and bare LF": chunks("5\nhello\r\n"),
    "chunk size and bare CR": chunks("5\r\rhello\r\n"),
    "chunk extension and bare LF": chunks("5;\nhello\r\n"),
    "chunk extension value and bare LF": chunks("5;a=b\nhello\r\n"),
    "chunk extension with NUL": chunks("5;a=\0\r\nhello\r\n"),
    "chunk extension, quote left open": chunks('5;a="\r\nhello\r\n'),
    "chunk data without CRLF": chunks("5\r\nhello"),
    "chunk data and bare LF": chunks("5\r\nhello\n"),
    "chunk data too long": chunks("3\r\nhello\r\n"),
    "last chunk and bare LF": trailer("0\n\r\n"),
    "last chunk, empty line is bare LF": trailer("0\r\n\n"),
    "trailer without colon": trailer("0\r\nno colon\r\n\r\n"),
    "trailer with bare LF": trailer("0\r\nX: a\n\r\n"),
    "trailer with NUL": trailer("0\r\nX: a\0\r\n\r\n"),
    "bare LF after request line": b"GET /a HTTP/1.1\nHost: localhost\r\n\r\n",
    "bare LF after header": b"GET /a HTTP/1.1\r\nHost: localhost\n\r\n",
    "bare LF as empty line": b"GET /a HTTP/1.1\r\nHost: localhost\r\n\n",
    "bare LF everywhere": get("/a").replace(b"\r", b""),
    "bare CR in request line": version("HTTP/1.1\r"),
    "bare CR in value": get("/a", "X: a\rb"),
    "NUL in header name": get("/a", "X\0: a"),
    "NUL in header value": get("/a", "X: a\0b"),
    "NUL in URL": get("/a\0b"),
    "control character in header value": get("/a", "X: a\x01b"),
    "control character in URL": get("/a\x01b"),
    "DEL in URL": get("/a\x7fb"),
    "raw Latin-1 in URL": get("/\xe4"),
    "raw UTF-8 in URL": get("/\xc3\xa4"),
    "raw space in URL": get("/a b"),
    "space before colon": get("/a", "X : a"),
    "empty header name": get("/a", ": a"),
    "header without colon": get("/a", "no-colon"),
    "header name not ASCII": get("/a", "\xe4: a"),
    "header name with parentheses": get("/a", "(x): a"),
    "obs-fold": get("/a", "X: a", " b"),
    "obs-fold with tab": get("/a", "X: a", "\tb"),
    "obs-fold as first header": head("GET /a HTTP/1.1", f" {HOST}"),
    "no Host": head("GET /a HTTP/1.1"),
    "doubled Host, the same": get("/a", HOST),
    "doubled Host, differing": get("/a", "Host: elsewhere"),
    "Host with space": head("GET /a HTTP/1.1", "Host: a b"),
    "Host with comma": head("GET /a HTTP/1.1", "Host: a,b"),
    "Host with slash": head("GET /a HTTP/1.1", "Host: a/b"),
    "Host with at": head("GET /a HTTP/1.1", "Host: a@b"),
    "tabs in request line": head("GET\t/a\tHTTP/1.1", HOST),
    "space after version": version("HTTP/1.1 "),
    "words after version": version("HTTP/1.1 x"),
    "version without minor": version("HTTP/1"),
    "version with two-digit minor": version("HTTP/1.01"),
    "version in lower case": version("http/1.1"),
    "no target": head("GET HTTP/1.1", HOST),
    "target without slash": get("a"),
    "target only a query": get("?a"),
    "target of another scheme": get("ftp://localhost/a"),
    "target of another scheme, with upgrade": websocket(KEY, VERSION, line="GET ftp://localhost/a HTTP/1.1"),
    "absolute-form without a host": get("http:///-/health"),
    "WebSocket with a body": websocket(KEY, VERSION, f"Content-Length: {len(SMUGGLED)}", body=SMUGGLED),
    "WebSocket with a chunked body": websocket(KEY, VERSION, CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "a response": head("HTTP/1.1 200 OK", "Content-Length: 0"),
    "TLS": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "JSON without HTTP": b'{"cmd": "subscribe"}\n',
}

# Refused for what is unknown or too much, before the body: the connection is closed.
UNSERVED = [
    Case("Content-Length of 30 digits", length("9" * 30), (400, 413), True),
    Case("Content-Length over the limit", length(str(MAX_BODY + 1)), (413,), True),
    Case(
        "Content-Length over the limit, asking first",
        framed(f"Content-Length: {MAX_BODY + 1}", "Expect: 100-continue", body=""),
        (413,),
        True,
    ),
    Case("chunk size of 17 digits", chunks("f" * 17 + "\r\nhello\r\n"), (400, 413), True),
    Case("one chunk over the limit", chunks(f"{MAX_BODY + 1:x}\r\n" + "a" * (MAX_BODY + 1) + "\r\n"), (413,), True),
    Case("chunks over the limit", chunks((f"{BIG:x}\r\n" + "a" * BIG + "\r\n") * 17), (413,), True),
    *(
        Case(f"Transfer-Encoding {coding or 'empty'}", coded(f"Transfer-Encoding: {coding}"), (400, 501), True)
        for coding in (
            "", "xchunked", "identity", "gzip, chunked", "chunked, gzip", "chunked, chunked", "chunked;q=1",
            '"chunked"', ",chunked", "chunked,", "chunked\t, identity",
        )
    ),
    Case("doubled Transfer-Encoding, the same", coded(CHUNKED, CHUNKED), (400, 501), True),
    Case("doubled Transfer-Encoding, differing", coded("Transfer-Encoding: identity", CHUNKED), (400, 501), True),
    Case("doubled Transfer-Encoding, differing, turned", coded(CHUNKED, "Transfer-Encoding: x"), (400, 501), True),
    Case("header of 64 KiB", get("/a", "X: " + "a" * BIG), (431,), True),
    Case("header name of 64 KiB", get("/a", "a" * BIG + ": a"), (431,), True),
    Case("1,000 headers", get("/a", *(f"X-{number}: a" for number in range(1000))), (431,), True),
    Case("URL of 64 KiB", get("/" + "a" * BIG), (414,), True),
    Case("query of 64 KiB", get("/a?" + "a" * BIG), (414,), True),
    Case("Expect: nonsense", framed("Expect: nonsense", "Content-Length: 5"), (417,), True),
    Case("HTTP/0.9 by name", version("HTTP/0.9"), (400, 505), True),
    Case("HTTP/0.9 by form", b"GET /a\r\n\r\n", (400, 505), True),
    Case("HTTP/1.2", version("HTTP/1.2"), (400, 505), True),
    Case("HTTP/2.0", version("HTTP/2.0"), (400, 505), True),
    Case("HTTP/2.0 preface", head("PRI * HTTP/2.0") + b"SM\r\n\r\n", (400, 505), True),
    Case("HTTP/3.1", version("HTTP/3.1"), (400, 505), True),
    # llhttp reads it as HTTP/1.0, whose framing is the same.
    Case("RTSP/1.0", version("RTSP/1.0", "POST"), (200, 400, 505), True),
    Case("ICE/1.0", version("ICE/1.0", "SOURCE"), (400, 405, 505), True),
    Case("method in lower case", method("get"), (400, 405, 501), True),
    Case("method FOO", method("FOO"), (400, 405, 501), True),
    Case("method of 64 KiB", method("A" * BIG), (400, 405, 501), True),
    Case("CONNECT", method("CONNECT", "localhost:80"), (400, 405, 501), True),
]  # fmt: skip

# Well-formed, but not to be served like this: 400, and the connection may stay.
SENSELESS = {
    "percent without digits": post("/%", "a"),
    "percent with one digit": post("/%a", "a"),
    "percent with letters": post("/%zz", "a"),
    "percent-encoded NUL": post("/a%00b", "a"),
    "percent-encoded LF": post("/a%0ab", "a"),
    "percent-encoded DEL": post("/a%7fb", "a"),
    "percent-encoded C1 control": post("/a%c2%85b", "a"),
    "percent-encoded bad UTF-8": post("/%ff", "a"),
    "percent-encoded overlong UTF-8": post("/%c0%af", "a"),
    "percent-encoded surrogate": post("/%ed%a0%80", "a"),
    "subscribe to percent with letters": get("/%zz"),
    "subscribe to percent-encoded LF": get("/a%0ab"),
    "subscribe to percent-encoded bad UTF-8": get("/%ff"),
    "publish to a pattern": post("/a*", "a"),
    "fragment in target": post("/a#b", "a"),
    "JSON cut off": post("/a", "{", JSON),
    "JSON empty": post("/a", "", JSON),
    "JSON with two values": post("/a", "1 2", JSON),
    "JSON with trailing comma": post("/a", "[1,]", JSON),
    "JSON with leading zero": post("/a", "01", JSON),
    "JSON NaN": post("/a", "NaN", JSON),
    "JSON Infinity": post("/a", "[-Infinity]", JSON),
    "JSON with control character": post("/a", '"a\nb"', JSON),
    "JSON not UTF-8": post("/a", '"\xff"', JSON),
    "JSON in UTF-16": post("/a", '"\0a\0"\0', JSON),
    "JSON nested one level too deeply": post("/a", "[" * 513 + "]" * 513, JSON),
    "JSON as a form": post("/a", '{"a":1}', "Content-Type: application/x-www-form-urlencoded"),
    "JSON without a type": post("/a", '{"a":1}'),
    "text in punycode": post("/a", "a-" * 500, "Content-Type: text/plain; charset=punycode"),
    "text of an unknown charset": post("/a", "a", "Content-Type: text/plain; charset=" + "x" * 900),
    "text in UTF-16 cut off": post("/a", "\xfe\xff\0", "Content-Type: text/plain; charset=utf-16"),
    "Content-Type with space around equals": post("/a", "a", "Content-Type: text/plain; charset = utf-8"),
    "Content-Type with an open quote": post("/a", "a", 'Content-Type: text/plain; charset="utf-8'),
    "Content-Type with a parameter twice": post("/a", "a", "Content-Type: text/plain; a=1; A=2"),
    "Content-Type without slash": post("/a", "a", "Content-Type: text"),
    "Content-Type too long": post("/a", "a", "Content-Type: text/plain; a=" + "x" * 2000),
    "two Content-Types": post("/a", "1", JSON, "Content-Type: text/plain"),
    "publish digits to a number": post("/-/publish", '{"channels": [' + "9" * 5000 + '], "data": 1}', JSON),
    "publish what is nested too deeply": post(
        "/-/publish", '{"channels": ["a"], "data": ' + "[" * 1024 + "]" * 1024 + "}", JSON
    ),
    "JSON nested too deeply": post("/a", "[" * 100_000 + "]" * 100_000, JSON),
    "NDJSON with one bad line": post("/a", '1\n{"a":\n2\n', NDJSON),
    "NDJSON not UTF-8": post("/a", '1\n"\xff"\n', NDJSON),
    "text not UTF-8": post("/a", "\xff", "Content-Type: text/plain; charset=utf-8"),
    "publish a list": post("/-/publish", "[]", JSON),
    "publish without channels": post("/-/publish", '{"data": 1}', JSON),
    "publish without data": post("/-/publish", '{"channels": ["a"]}', JSON),
    "publish to a number": post("/-/publish", '{"channels": [1], "data": 1}', JSON),
    "publish to a bad name": post("/-/publish", '{"channels": ["a\\u0000"], "data": 1}', JSON),
    "_wait negative": get("/a?_wait=-1"),
    "_wait no number": get("/a?_wait=abc"),
    "_wait NaN": get("/a?_wait=nan"),
    "_since garbage": get("/a?_since=garbage"),
    "_since without epoch": get("/a?_since=:1"),
    "_since negative": get("/a?_since=k:-1"),
    "_since of 30 digits": get("/a?_since=k:" + "9" * 30),
    "_since non-ASCII digit": get("/a?_since=k:%C2%B2"),
    "_last negative": get("/a?_last=-1"),
    "_last no number": get("/a?_last=abc"),
    "subscribe without channel": subscribe(0),
    "subscribe to an empty channel": get("/-/subscribe?channel="),
    "subscribe to 129 channels": subscribe(129),
}

UNDONE = [
    Case("channel of 256 bytes", post("/" + "a" * 256, "a"), (400, 414), False),
    Case("channel of 128 characters and 256 bytes", post("/" + "%C3%A4" * 128, "a"), (400, 414), False),
    Case("body in gzip", post("/a", "\x1f\x8b\x08", "Content-Encoding: gzip"), (415,), False),
    Case("body in gzip to many", post("/-/publish", "\x1f\x8b\x08", "Content-Encoding: gzip", JSON), (415,), False),
    Case("batch of 20,000 messages", post("/a", "1\n" * 20_000, NDJSON), (413,), False),
    Case("message as large as a body may be", post("/a", '"' + "x" * (MAX_BODY - 2) + '"', JSON), (413,), False),
    Case("empty channel", post("/", "a"), (400, 404, 405), False),
    Case("reserved channel", post("/-/nothing", "a"), (404, 405), False),
    Case("reserved channel, percent-encoded", post("/%2d/nothing", "a"), (400, 404, 405), False),
    Case("unknown control path", get("/-/nothing"), (404,), False),
    Case("POST without length", head(POST, HOST, JSON), (400, 411), False),
    Case("DELETE of a control path", method("DELETE", "/-/health"), (405,), False),
    Case("PUT", method("PUT"), (405,), False),
    Case("TRACE", method("TRACE"), (405, 501), False),
    Case("PROPFIND", method("PROPFIND"), (405, 501), False),
    Case("GET of an asterisk", get("*"), (400, 404, 405), False),
    # RFC 9112 section 3.2.2: the target's host counts, not the Host field; section 3: spaces may be parsed leniently.
    Case("absolute-form of another host", get("http://elsewhere/-/health"), (200, 400, 421), False),
    Case("absolute-form with user info", get("http://a:b@localhost/-/health"), (200, 400, 421), False),
    Case("two spaces in request line", get(" /-/health"), (200, 400), False),
    # RFC 9110 section 7.8: an upgrade that is not served is ignored; the body is a body all the same.
    Case(
        "Upgrade: h2c with a body",
        post("/a", SMUGGLED.decode(), "Connection: Upgrade", "Upgrade: h2c"),
        (200, 202, 400, 501),
        False,
    ),
    # RFC 7240 section 2: a preference that is not understood is ignored.
    Case("Prefer: wait=abc", get("/a", "Prefer: wait=abc"), (200, 400), False),
    Case("Prefer: wait=-1", get("/a", "Prefer: wait=-1"), (200, 400), False),
    Case("WebSocket without key", websocket(VERSION), (400, 426), False),
    Case("WebSocket with a key no base64", websocket("Sec-WebSocket-Key: ???", VERSION), (400, 426), False),
    Case("WebSocket with a short key", websocket("Sec-WebSocket-Key: YWJj", VERSION), (400, 426), False),
    Case("WebSocket with an empty key", websocket("Sec-WebSocket-Key:", VERSION), (400, 426), False),
    Case("WebSocket with two keys", websocket(KEY, KEY, VERSION), (400, 426), False),
    Case("WebSocket without version", websocket(KEY), (400, 426), False),
    Case("WebSocket with version 8", websocket(KEY, "Sec-WebSocket-Version: 8"), (400, 426), False),
    Case("WebSocket with version abc", websocket(KEY, "Sec-WebSocket-Version: abc"), (400, 426), False),
    Case("WebSocket by POST", websocket(KEY, VERSION, line=POST), (400, 405, 426), False),
    Case("WebSocket in HTTP/1.0", websocket(KEY, VERSION, line="GET /a HTTP/1.0"), (400, 426), False),
    Case("WebSocket at a bad name", websocket(KEY, VERSION, line="GET /%ff HTTP/1.1"), (400,), False),
    Case("WebSocket at an unknown path", websocket(KEY, VERSION, line="GET /-/nothing HTTP/1.1"), (404,), False),
]

CASES: list[Case] = [
    *(Case(name, request, (400,), True) for name, request in UNPARSABLE.items()),
    *UNSERVED,
    *(Case(name, request, (400,), False) for name, request in SENSELESS.items()),
    *UNDONE,
]
