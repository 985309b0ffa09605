"""A tiny OpenAI-compatible server in threads, whose streams a test writes line by line."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Lines = Callable[[dict[str, Any]], Iterator[Any]]


def chunk(num_tokens, token_ids=(), **fields):
    """One chunk of a stream by whose end the answer has `num_tokens`."""
    choice = {"index": 0, "text": "x", "token_ids": list(token_ids)}
    return {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": num_tokens}, **fields}


@contextmanager
def serving(lines: Lines, status=200):
    """Serve `lines(body)` as events to every request; yields the URL and the bodies that came."""
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(json.dumps({"data": [{"id": "served"}]}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append((self.path, body))
            if status != 200:
                self.answer(b"no such model")
                return
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for line in lines(body):
                text = line if isinstance(line, str) else json.dumps(line)
                self.write(f"data: {text}\n\n".encode())
            self.write(b"")

        def write(self, data):
            # The client may have gone; a fake has nothing to clean up then.
            try:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            except OSError:
                self.close_connection = True

        def answer(self, data):
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
