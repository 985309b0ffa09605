"""Only whole events are read: wherever a stream is cut, what came before the cut is right and nothing else comes."""

import pytest

from client.sse import ServerEvent, read_events

STREAM = 'id: 3\ndata: "für €"\n\n: ka\nid: 6f\r\ndata: a\r\ndata: b\r\n\r\ndata: [DONE]\n\n'.encode()
EVENTS = [ServerEvent("3", '"für €"'), ServerEvent("6f", "a\nb"), ServerEvent("", "[DONE]")]
ENDS = [STREAM.index(b"\n: ka") + 1, STREAM.index(b"data: [D"), len(STREAM)]


async def lines_of(data):
    for line in data.splitlines(keepends=True):
        yield line


@pytest.mark.parametrize("num_bytes", range(len(STREAM) + 1))
async def test_a_stream_that_is_cut_gives_the_events_that_were_whole(num_bytes):
    found = [event async for event in read_events(lines_of(STREAM[:num_bytes]))]
    assert found == EVENTS[: sum(end <= num_bytes for end in ENDS)]
