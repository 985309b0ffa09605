"""When memory is what requests wait for: draft rows then take the blocks that running sequences need."""

from core.planning import StepView

# Shares of free KV blocks: below the first nothing is drafted, from the second on it is again; between the two the
# memory binds, and a queue that grows is a queue for blocks.
SHORT, ENOUGH = 0.05, 0.10


class MemoryPressure:
    """Whether drafting must rest for want of KV blocks; watches the view of every step."""

    def __init__(self) -> None:
        self._is_resting, self._queue_depth = False, 0

    def rests(self, view: StepView) -> bool:
        """Tell whether the step of `view` should draft nothing."""
        is_growing, self._queue_depth = view.queue_depth > self._queue_depth, view.queue_depth
        if view.kv_free >= ENOUGH:
            self._is_resting = False
        elif view.kv_free < SHORT or is_growing:
            self._is_resting = True
        return self._is_resting
