"""What this gateway mended, counted: groups, entries, answers and consumers that somebody's end left behind."""

from prometheus_client import CollectorRegistry, Counter


class UpkeepMetrics:
    """Counters of one gateway, of one model. To be used from one thread."""

    def __init__(self, registry: CollectorRegistry, model: str) -> None:
        self._registry, self._model = registry, model
        self.group_heals = self._counter("specd_intake_group_heals", "Times the intake's group was made again.")
        self.restored = self._counter("specd_entries_restored", "Jobs whose place in the queue was lost and restored.")
        self.orphans = self._counter("specd_orphans_cancelled", "Answers cancelled because their gateway was gone.")
        self.consumers = self._counter("specd_consumers_removed", "Consumers removed that were idle and held nothing.")

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, ("model_name",), registry=self._registry).labels(self._model)
