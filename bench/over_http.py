"""A server under load: one thread per client, all measured over the same stretch of time."""

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.load import Load, Questions
from bench.openai_stream import Arrival, Connection
from bench.prompt_pool import Question
from bench.window import Answer, Window, merge
from core.errors import ConfigError

# Clients run for this long before they are measured, so that their requests have spread out.
MIN_RAMP_S = 0.5
RAMP_SHARE = 0.25

Connect = Callable[[], Connection]


class ServerTarget:
    """One server, or one way of asking it, with its clients. Each window begins with a ramp and ends with all gone.

    has_cache_salt is for servers that know the field: no request meets the cached prefix of another.
    """

    def __init__(self, name: str, connect: Connect, *, has_cache_salt: bool = True) -> None:
        self.name, self._connect, self._has_cache_salt = name, connect, has_cache_salt
        self._lock = threading.Lock()

    def start(self, load: Load, questions: Questions) -> None:
        """Begin to serve a load; the questions are this target's own."""
        self._load, self._questions = load, questions

    def measure(self, seconds: float) -> Window:
        """Serve for so long and return what happened. Raises QueueError if the server fails."""
        self._questions.begin()
        begin_s = time.perf_counter() + max(MIN_RAMP_S, RAMP_SHARE * seconds)
        clients = [
            _Client(self._connect(), self._load, begin_s, begin_s + seconds) for _ in range(self._load.concurrency)
        ]
        with ThreadPoolExecutor(len(clients), thread_name_prefix="client") as threads:
            ended = [threads.submit(client.run, self._take, self._fields) for client in clients]
        for one in ended:
            one.result()
        return merge((client.window for client in clients), seconds)

    def stop(self) -> None:
        """Nothing is in flight between windows."""

    def _take(self) -> Question:
        with self._lock:
            return self._questions.take()

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"return_token_ids": True} if self._load.is_greedy else {}
        return fields | ({"cache_salt": secrets.token_hex(8)} if self._has_cache_salt else {})


class _Client:
    """One client's loop and what it saw between begin_s and end_s."""

    def __init__(self, connection: Connection, load: Load, begin_s: float, end_s: float) -> None:
        self.window = Window()
        self._connection, self._load, self._begin_s, self._end_s = connection, load, begin_s, end_s

    def run(self, take: Callable[[], Question], fields: Callable[[], dict[str, Any]]) -> None:
        """Ask one question after the other until the time is over."""
        try:
            while time.perf_counter() < self._end_s:
                self._ask(take(), fields())
        finally:
            self._connection.close()

    def _ask(self, question: Question, fields: dict[str, Any]) -> None:
        answer = Answer(time.perf_counter(), ends_at_loop=self._load.is_greedy)
        arrivals = self._connection.ask(question, self._load.temperature, **fields)
        try:
            for arrival in arrivals:
                if arrival.at_s >= self._end_s:
                    return
                if self._is_over(answer, arrival):
                    return
        finally:
            arrivals.close()

    def _is_over(self, answer: Answer, arrival: Arrival) -> bool:
        """Count an arrival; true when a greedy answer begins to repeat itself."""
        # What comes during the ramp is followed, but counted nowhere.
        window = self.window if arrival.at_s >= self._begin_s else Window()
        answer.arrive(window, arrival.at_s, arrival.num_tokens)
        if arrival.is_round:
            window.rounds += 1
            window.verified += arrival.verified
            window.accepted += arrival.accepted
        if self._load.is_greedy and not arrival.token_ids:
            raise ConfigError(
                "at temperature 0 an answer ends where it begins to loop, and this server does not stream token ids "
                "(return_token_ids); measure it at a higher temperature"
            )
        return answer.loops_now(window, arrival.token_ids)
