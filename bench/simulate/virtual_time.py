"""The clock of a simulation: it stands still until somebody moves it on."""


class VirtualTime:
    """Seconds since a simulation began; only the event loop sets now_s."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s
