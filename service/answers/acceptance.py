"""What speculation did for one choice, round by round, under vLLM's names.

Tokens past a stop are not in the chunks, so the sums equal the gateway's counters (service/metrics.py).
Names: vLLM's docs/features/speculative_decoding/acceptance_metrics.md (0.33).
"""

from collections import Counter
from typing import Any

from client.wire import Chunk


class Acceptance:
    """Counts the rounds in which drafts were verified: by how many those were, and how many were accepted."""

    def __init__(self) -> None:
        self._rounds: list[tuple[int, int]] = []

    def saw(self, chunk: Chunk) -> None:
        """Count one round."""
        if chunk.verified:
            self._rounds.append((chunk.verified, chunk.num_drafts))

    def fields(self, *, is_detailed: bool) -> dict[str, Any]:
        """Return the counts.

        num_spec_tokens is the longest draft that was verified; acceptance_histogram[j] counts the steps that accepted j
        drafts, acceptance_histogram_by_draft_length those of each draft length. Means are null without a step.
        """
        num_steps = len(self._rounds)
        num_drafted, num_accepted = (sum(column) for column in zip(*self._rounds, strict=True)) if num_steps else (0, 0)
        longest = max((verified for verified, _ in self._rounds), default=0)
        counts = Counter(self._rounds)
        by_length = {
            length: [counts[length, accepted] for accepted in range(length + 1)]
            for length in sorted({verified for verified, _ in counts})
        }
        told: dict[str, Any] = {
            "mean_acceptance_length": 1 + num_accepted / num_steps if num_steps else None,
            "draft_acceptance_rate": num_accepted / num_drafted if num_steps else None,
            "acceptance_histogram": [
                sum(row[accepted] for row in by_length.values() if accepted < len(row))
                for accepted in range(longest + 1)
            ],
            "acceptance_histogram_by_draft_length": {str(length): row for length, row in by_length.items()},
            "num_spec_steps": num_steps,
            "num_accepted_draft_tokens": num_accepted,
            "num_draft_tokens": num_drafted,
            "num_spec_tokens": longest,
        }
        if is_detailed:
            told["per_step_accepted"] = [accepted for _, accepted in self._rounds]
            told["per_step_drafted"] = [verified for verified, _ in self._rounds]
        return told
