"""The application of the peers in Python, to be measured beside rgunicorn: the answers of examples/bench.

`application` is WSGI (uWSGI, Gunicorn, granian), `rsgi` is granian's own interface.
"""

HELLO = b"Hello, World!"
BIG = (b"abcdefghijklmnopqrstuvwxyz" * 40330)[: 1024 * 1024]


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/echo":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    elif path == "/big":
        body = BIG
    else:
        body = HELLO
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


async def rsgi(scope, protocol):
    if scope.path == "/echo":
        body = await protocol()
    elif scope.path == "/big":
        body = BIG
    else:
        body = HELLO
    protocol.response_bytes(200, [("content-type", "text/plain")], body)
