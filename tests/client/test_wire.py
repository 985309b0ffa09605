"""What travels through Redis comes back as it was, and nothing else is taken for it."""

import msgspec
import pytest

from client.wire import Chunk, Final, IntakeRequest, Job, Speculated, Usage, WireError, decode_event, decode_job, encode
from core.errors import QueueError
from core.types import FinishReason, Sampling, TokenLogprobs

JOB = Job("a" * 32, "m", (1, 2), Sampling(), nonce=b"n" * 16, created_ms=1)
CHUNK = Chunk((1, 2, 3), ("", "€", "x"), verified=3, num_drafts=2, reason=FinishReason.STOP)
ROWS = (TokenLogprobs(-0.5, 2, (7, 8), (-0.25, -0.5)), TokenLogprobs(-1.0, 1))
WITH_LOGPROBS = Chunk((1, 2), ("a", "b"), logprobs=ROWS, num_cached_tokens=5)
FINAL = Final(FinishReason.ERROR, Usage(2, 3), Speculated(1, 3, 2), "tail", WireError("why", 400, "code", "field"))


def test_messages_survive_the_wire():
    assert decode_job(encode(JOB)) == JOB
    assert [decode_event(encode(event)) for event in (CHUNK, WITH_LOGPROBS, FINAL)] == [CHUNK, WITH_LOGPROBS, FINAL]


def test_sums_are_derived():
    assert CHUNK.text == "€x"
    assert Usage(2, 3).total_tokens == 5
    assert Speculated(1, 4, 2).plus(CHUNK) == Speculated(2, 7, 4)
    assert Speculated(1, 4, 2).plus(Chunk((1,), ("x",))) == Speculated(1, 4, 2)


@pytest.mark.parametrize("data", [b"", b"junk", b"\xc1", encode(JOB), msgspec.msgpack.encode({"type": "c/1"})])
def test_what_is_no_event_is_a_queue_error(data):
    with pytest.raises(QueueError, match="no event"):
        decode_event(data)


def test_an_unknown_field_is_no_job():
    fields = msgspec.to_builtins(JOB) | {"extra": 1}
    with pytest.raises(QueueError, match="no job"):
        decode_job(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("job_id", ["", "a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 32 + "\n", "{" + "a" * 31])
def test_a_job_id_is_hexadecimal_and_can_open_no_other_key(job_id):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode({"id": job_id, "prompt": "x"}), type=IntakeRequest)
