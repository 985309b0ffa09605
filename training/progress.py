"""What a running training shows: a live line, a CSV of losses, and TensorBoard's files where they are asked for."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bar

from core.errors import ConfigError
from core.registry import OPTIONAL
from training.losses import Losses
from training.record import LossRecord, progress_bar
from training.run_state import Counters
from training.survived import survived


class Progress:
    """Shows and keeps the losses of one run; mutable. A process that is not the first makes none and shows nothing."""

    def __init__(self, folder: Path, terms: tuple[str, ...], *, tensorboard: bool) -> None:
        self._bar: Bar = progress_bar()
        self._console = Console(stderr=True)
        self._columns = ("loss", *terms)
        self._record = LossRecord(folder / "losses.csv", ("step", "tokens", "seconds", "learning_rate", *self._columns))
        self._folder = folder
        self._writer: Any = summary_writer(folder / "tensorboard") if tensorboard else None
        self._line = self._bar.add_task("starting", total=1.0)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        with survived(self.warn):
            self._record.plot(self._folder / "losses.png")
        with survived(self.warn):
            if self._writer is not None:
                self._writer.close()

    def step(self, counters: Counters, progress: float, losses: Losses, learning_rate: float) -> None:
        """Take in the newest step."""
        values = dict(zip(self._columns, (losses.total.item(), *losses.terms.tolist()), strict=True))
        seconds = max(1e-9, counters.elapsed_s)
        at = {"step": counters.steps, "tokens": counters.tokens, "seconds": seconds, "learning_rate": learning_rate}
        with survived(self.warn):
            self._record.add({**at, **values})
        speed = f"{counters.tokens / seconds:,.0f} tokens/s"
        text = f"step {counters.steps}, loss {values['loss']:.3f}, {speed}"
        self._bar.update(self._line, completed=progress, description=text)
        if self._writer is None:
            return
        values |= {"learning_rate": learning_rate, "tokens_per_s": counters.tokens / seconds}
        with survived(self.warn):
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, counters.steps)

    def warn(self, message: str) -> None:
        """Say what went wrong and is survived."""
        self._console.print(message, style="yellow", markup=False, highlight=False)


class Silent(Progress):
    """Of the processes that are not the first."""

    def __init__(self) -> None:
        pass

    def __enter__(self) -> "Silent":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def step(self, counters: Counters, progress: float, losses: Losses, learning_rate: float) -> None:
        """Show nothing."""

    def warn(self, message: str) -> None:
        """Say nothing."""


def summary_writer(folder: Path) -> Any:
    """Return TensorBoard's writer; raises ConfigError where it is not installed."""
    try:
        return OPTIONAL.load("SummaryWriter")(str(folder))
    except ConfigError as error:
        raise ConfigError(
            "run.tensorboard asks for TensorBoard, which is not installed: pip install 'specd[tensorboard]', "
            "or set run.tensorboard=false; losses.csv and losses.png are written anyway"
        ) from error
