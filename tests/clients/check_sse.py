"""OpenAI's decoder reads specd's streams however the network cuts them, with keep-alives wherever they may come."""

import http.client
import json
import re
import socket
import threading
from contextlib import contextmanager

import openai
import pytest

KEEP_ALIVE = b": ka\n"
# Four bytes, so that one-byte pieces cut it.
EMOJI = "🎉"


def recorded(url):
    """Return the bytes of a streamed chat, with an emoji in its first text."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, "temperature": 0, "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    raw = connection.getresponse().read()
    connection.close()
    before, found, after = raw.partition(b'"delta":{"content":"')
    assert found
    return before + found + EMOJI.encode() + after


def read_request(connection):
    """Read a whole request: what is left unread when a connection closes resets it."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head, re.IGNORECASE)[1])
    while len(body) < length:
        body += connection.recv(65536)


@contextmanager
def replaying(pieces):
    """Serve one answer in these pieces of TCP; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                read_request(connection)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
                for piece in pieces:
                    connection.sendall(piece)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join(10)


def decoded(pieces):
    with replaying(pieces) as url, openai.OpenAI(base_url=url, api_key="unused", max_retries=0, timeout=20) as client:
        chunks = client.chat.completions.create(model="demo", messages=[{"role": "user", "content": "a"}], stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_one_byte_at_a_time(url):
    raw = recorded(url)
    text = decoded([raw])
    assert text.startswith(EMOJI)
    assert decoded([raw[index : index + 1] for index in range(len(raw))]) == text


def test_a_keep_alive_in_every_gap(url):
    raw = recorded(url)
    events = [event + b"\n\n" for event in raw.split(b"\n\n") if event]
    assert decoded([KEEP_ALIVE * 2 + event for event in events]) == decoded([raw])


def test_a_silent_client_s_keep_alive_with_an_empty_line_would_break_it_after_an_id(url):
    # Why streams of /v1 have no ids, and keep-alives one newline: with both the decoder meets an empty event.
    first, *rest = [event + b"\n\n" for event in recorded(url).split(b"\n\n") if event]
    with pytest.raises(json.JSONDecodeError):
        decoded([b"id: 1\n" + first, b": ka\n\n", *rest])


def test_a_fault_in_a_stream_is_raised(url):
    fault = b'data: {"error":{"message":"gone","type":"api_error","param":null,"code":"internal_error"}}\n\n'
    with pytest.raises(openai.APIError, match="gone"):
        decoded([fault])
