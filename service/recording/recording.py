"""What answers leave behind where the operator asked for it: prompts and answers as JSONL, for drafters to learn from.

Off unless [recording] names a folder. The worker keeps the rounds of the answers that the share draws and hands each
whole answer to a thread, which reads, redacts and writes it. Nothing of this holds a request up: what the thread cannot
follow, what the redactor fails on and what the disk does not take is left out and counted. Only answers that ended by
themselves or at their length are kept. With a redactor there are no token ids, nor what else the request said of
sampling, which may be texts and ids as well: they would tell what it took out.
"""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
from msgspec import Struct

from client.wire import Chunk, Final, Job
from core.errors import ConfigError
from core.observing import RecordingSettings
from core.recorded_request import sampling_fields
from core.registry import REDACTORS
from core.types import FinishReason
from models.tokenizer import Tokenizer
from service.log_text import frames
from service.recording.recording_files import RecordingFiles
from service.telemetry.worker_stats import RecordingCounts

log = structlog.get_logger()

# Answers that may wait for the thread.
MAX_WAITING = 256
# How long a disk that failed is left alone.
REST_S = 5.0
CLOSE_S = 5.0
KEPT = (FinishReason.STOP, FinishReason.LENGTH)
# Why an answer is not recorded.
BEHIND, REDACTION, DISK, BROKEN = "behind", "redaction", "disk", "broken"

Redactor = Callable[[str], str]


class Answer(Struct, frozen=True):
    """One whole answer on its way to the thread."""

    job: Job
    chunks: tuple[Chunk, ...]
    final: Final


class Recorder:
    """Records the answers of one worker; `wants` and `put` are for its loop, the rest happens in a thread.

    Raises ConfigError if the redactor cannot be had: nothing is recorded unredacted.
    """

    def __init__(self, settings: RecordingSettings, folder: Path, worker: str, tokenizer: Tokenizer) -> None:
        self._share, self._redactor = settings.share, settings.redactor
        self._redact: Redactor | None = None if settings.redactor is None else _load(settings.redactor)
        self._tokenizer = tokenizer
        self._files = RecordingFiles(folder, worker, settings.max_file_mib << 20, settings.max_total_mib << 20)
        self._waiting: queue.Queue[Answer | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._write_all, name="recording", daemon=True)
        self._num_recorded = 0
        self._dropped: dict[str, int] = dict.fromkeys((BEHIND, REDACTION, DISK, BROKEN), 0)
        self._failed_s: float | None = None
        self._has_told_of_redactor = False

    @property
    def counts(self) -> RecordingCounts:
        """What has become of the answers so far."""
        return RecordingCounts(self._num_recorded, dict(self._dropped))

    def start(self) -> None:
        """Start the thread, and say at once if the folder cannot be written."""
        self._try(self._files.open)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, for a while at most; blocks."""
        try:
            self._waiting.put(None, timeout=CLOSE_S)
        except queue.Full:
            return
        self._thread.join(CLOSE_S)

    def wants(self, job: Job) -> bool:
        """Tell whether a job's answer is of the share to keep: the same in every worker that takes the job over."""
        return int(job.id[:8], 16) < self._share * (1 << 32)

    def put(self, job: Job, chunks: list[Chunk], final: Final) -> None:
        """Hand over a whole answer; those that failed or were cut short by others are none."""
        if final.reason not in KEPT or not chunks:
            return
        try:
            self._waiting.put_nowait(Answer(job, tuple(chunks), final))
        except queue.Full:
            self._dropped[BEHIND] += 1

    # --- The thread ----------------------------------------------------------------------------------------------

    def _write_all(self) -> None:
        while (answer := self._waiting.get()) is not None:
            try:
                self._write(answer)
            except Exception as error:  # noqa: BLE001 - a border: one answer must not end the thread
                self._dropped[BROKEN] += 1
                _tell_of_fault(answer.job, error)
        self._files.close()

    def _write(self, answer: Answer) -> None:
        fields = self._fields(answer)
        if fields is None:
            self._dropped[REDACTION] += 1
            return
        line = msgspec.json.encode(fields) + b"\n"
        if self._try(lambda: self._files.write(line)):
            self._num_recorded += 1
        else:
            self._dropped[DISK] += 1

    def _fields(self, answer: Answer) -> dict[str, Any] | None:
        """Return the record, None if the redactor failed."""
        job, final = answer.job, answer.final
        prompt = self._tokenizer.decode(list(job.prompt_ids), skip_special_tokens=False)
        text = "".join(chunk.text for chunk in answer.chunks) + final.tail
        fields: dict[str, Any] = {
            "kind": "recorded",
            "id": job.id,
            "model": job.model,
            "created_ms": job.created_ms,
            "temperature": job.sampling.temperature,
            "finish_reason": final.reason.value,
        }
        if self._redact is None:
            ids = [token_id for chunk in answer.chunks for token_id in chunk.token_ids]
            fields |= {"prompt": prompt, "answer": text, "prompt_ids": job.prompt_ids, "answer_ids": ids}
            return fields | sampling_fields(job.sampling)
        try:
            redacted = [self._redact(prompt), self._redact(text)]
        except Exception as error:  # noqa: BLE001 - somebody else's code: its failure costs this record, no more
            self._tell_of_redactor(type(error).__name__)
            return None
        if not all(isinstance(one, str) for one in redacted):
            self._tell_of_redactor("it must return text")
            return None
        return fields | {"prompt": redacted[0], "answer": redacted[1], "redacted": self._redactor}

    def _tell_of_redactor(self, problem: str) -> None:
        if not self._has_told_of_redactor:
            self._has_told_of_redactor = True
            log.error("redactor_failed", redactor=self._redactor, error=problem)

    def _try(self, act: Callable[[], None]) -> bool:
        """Do something to the disk; tell once that it fails, leave it alone for a while, tell when it works again."""
        now_s = time.monotonic()
        if self._failed_s is not None and now_s < self._failed_s + REST_S:
            return False
        try:
            act()
        except OSError as error:
            if self._failed_s is None:
                log.warning("recording_failed", folder=str(self._files.folder), error=error.strerror or str(error))
            self._failed_s = now_s
            return False
        if self._failed_s is not None:
            self._failed_s = None
            log.warning("recording_resumed", folder=str(self._files.folder))
        return True


def open_recorder(settings: RecordingSettings, worker: str, tokenizer: Tokenizer) -> Recorder | None:
    """Return the recorder that the settings ask for, None for none. Raises ConfigError."""
    return None if settings.folder is None else Recorder(settings, Path(settings.folder), worker, tokenizer)


def _tell_of_fault(job: Job, error: Exception) -> None:
    # Where it happened, not what it says: that may be the prompt's text.
    log.error("recording_broken", job_id=job.id, exception=frames(error))


def _load(name: str) -> Redactor:
    redactor = REDACTORS.load(name)
    if not callable(redactor):
        raise ConfigError(f"redactor {name!r} must be a function from text to text, got {type(redactor).__name__}")
    made: Redactor = redactor
    return made
