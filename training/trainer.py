"""The training loop: the frozen target's features are made in the step itself, the drafter learns from them, nothing
but its state and its files is written.

One optimiser step is `accumulation` target passes, each used for `anchor_draws` draws of anchors. Weights are float32,
products bfloat16 by autocast. What a step does depends on its number alone, so a stopped run goes on bit for bit.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from models.draft_fit import DraftNetwork
from models.target import Target
from training.blocks import sample_anchors
from training.features import States, target_states
from training.losses import Losses, Normaliser
from training.muon import Muon, split_parameters
from training.objective import Draw, Objective
from training.packing import Rows
from training.processes import Place, share, whole
from training.progress import Progress
from training.recipe import Optimiser, Recipe
from training.run_state import Counters, Origin, load_run, save_run
from training.schedule import warm_up_cosine
from training.sources import Batches
from training.survived import survived

SEEDS_PER_STEP = 10_007


class Lesson(nn.Module):
    """One draw of a drafter: the unit that processes share, and that is compiled."""

    def __init__(self, network: DraftNetwork, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, target: Target, draw: Draw, normaliser: Normaliser) -> tuple[Tensor, Tensor]:
        """Return the total and the terms, tensors that sharding can hook into."""
        losses = self.objective.losses(self.network, target, draw, normaliser)
        return losses.total, losses.terms.detach()


class Trainer:
    """One run of one drafter; mutable. `on_save` is given the whole weights by name, in the first process.

    target_sha256 tells a run that goes on whether its target is still the same (training/identity.py).
    """

    def __init__(
        self,
        recipe: Recipe,
        network: DraftNetwork,
        target: Target,
        objective: Objective,
        batches: Batches,
        folder: Path,
        place: Place,
        target_sha256: str,
    ) -> None:
        self.recipe, self.network, self.target, self.objective = recipe, network, target, objective
        self._batches, self._folder, self._place = batches, folder, place
        self._origin = Origin(target_sha256, batches.sha256)
        for name, parameter in network.named_parameters():
            # Gemma's is a buffer to whoever trains it.
            parameter.requires_grad_(not name.endswith("layer_scalar"))
        self._lesson = Lesson(network.to(place.device), objective)
        share(self._lesson, place)
        self.optimizers = make_optimizers(network, recipe.optimiser)
        self.counters = Counters()
        if self._state.exists():
            self.counters = load_run(self._state, network, self.optimizers, recipe, self._origin)
        is_compiled = recipe.run.compile and place.world == 1
        self._forward = torch.compile(self._lesson) if is_compiled else self._lesson

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole run."""
        run = self.recipe.run
        return run.steps or max(1, run.epochs * self._batches.batches_per_epoch // run.accumulation)

    @property
    def progress(self) -> float:
        """0..1, what of the run is done."""
        done, minutes = self.counters.steps / self.num_steps, self.recipe.run.minutes
        return max(done, self.counters.elapsed_s / (60 * minutes)) if minutes else done

    def train(self, show: Progress, on_save: Callable[[], None] = lambda: None) -> None:
        """Train to the end, saving as the recipe says; raises OSError if the last state cannot be written."""
        run = self.recipe.run
        started = time.monotonic() - self.counters.elapsed_s
        saved = self.counters.elapsed_s
        while self.progress < 1.0:
            losses = self.step()
            self.counters.elapsed_s = self._agree(time.monotonic() - started)
            if self.counters.steps % run.log_steps == 0:
                show.step(self.counters, self.progress, losses, self.optimizers[0].param_groups[0]["lr"])
            if self.counters.elapsed_s - saved >= run.save_s:
                saved = self.counters.elapsed_s
                with survived(show.warn, "the run goes on, its last saved state stays"):
                    self.save()
                    self._write(on_save)
        self.save()
        self._write(on_save)

    def step(self) -> Losses:
        """Take one optimiser step; returns the mean losses of its draws, on this process' rows."""
        run, number = self.recipe.run, self.counters.steps
        scale = warm_up_cosine(self._begun, self.recipe.optimiser.warm_up)
        totals: list[Tensor] = []
        terms: list[Tensor] = []
        for index in range(run.accumulation):
            batch = self._batches.batch(number * run.accumulation + index)
            rows = take_rows(batch.rows, self._place)
            with self._autocast():
                states = self._states(rows, batch.states)
                for draw in range(run.anchor_draws):
                    seed = (number * run.accumulation + index) * run.anchor_draws + draw
                    generator = torch.Generator().manual_seed(run.seed * SEEDS_PER_STEP + seed)
                    # Drawn for the rows of all processes, so that one with all rows draws the same.
                    drawn = sample_anchors(batch.rows.weights, run.num_anchors, generator)
                    anchors, kept = (own_rows(one, self._place) for one in drawn)
                    draws = Draw(rows, states, anchors, kept)
                    total, parts = self._forward(self.target, draws, self._place.weight_of_all)
                    (total / (run.accumulation * run.anchor_draws)).backward()
                    totals.append(total.detach())
                    terms.append(parts)
            self.counters.tokens += batch.rows.tokens.numel()
        self._descend(scale)
        self.counters.steps += 1
        names = self.objective.terms(self.network)
        return Losses(torch.stack(totals).mean(), torch.stack(terms).mean(0), names)

    def save(self) -> None:
        """Write the state of the run; all processes must call it, and all raise OSError where it cannot be written."""
        self._write(
            lambda: save_run(
                self._state, self.network, self.optimizers, self.counters, self.recipe, self._origin, self._place
            )
        )

    def weights(self) -> dict[str, Tensor]:
        """Return all weights whole, by name; all processes must call it."""
        return {name: whole(parameter.detach()) for name, parameter in self.network.named_parameters()}

    def _write(self, write: Callable[[], None]) -> None:
        """Call what gathers and writes; raises OSError in every process if it failed in one.

        Else those that have nothing to write would go on without it, and wait in another exchange than it does.
        """
        failure: OSError | None = None
        try:
            write()
        except OSError as error:
            failure = error
        if self._place.is_failed(failure):
            raise failure or OSError("another process could not write its files")

    @property
    def _state(self) -> Path:
        return self._folder / "state.safetensors"

    @property
    def _begun(self) -> float:
        """Where in the schedule the step about to be taken ends: the first has a rate above zero, so has the last."""
        return min(1.0, self.progress + 0.5 / self.num_steps)

    def _states(self, rows: Rows, states: States | None) -> States:
        if states is None:
            return target_states(self.target, rows, self.network.config.target_layer_ids)
        own = [own_rows(one, self._place) for one in (states.last_hidden, states.features)]
        if self.recipe.run.precision == "float32":
            # Without autocast nothing else brings what was stored in bfloat16 to the weights' type.
            own = [one.float() for one in own]
        return States(*own)

    def _descend(self, scale: float) -> None:
        trained = [one for one in self.network.parameters() if one.grad is not None]
        nn.utils.clip_grad_norm_(trained, self.recipe.optimiser.max_gradient_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["top_lr"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def _autocast(self) -> torch.autocast:
        enabled = self.recipe.run.precision == "bfloat16"
        return torch.autocast(self._place.device.type, torch.bfloat16, enabled=enabled)

    def _agree(self, seconds: float) -> float:
        """Return the first process' clock: all must end at one step."""
        if self._place.world == 1:
            return seconds
        clock = torch.tensor([seconds], dtype=torch.float64, device=self._place.device)
        torch.distributed.broadcast(clock, 0)
        return clock.item()


def make_optimizers(network: nn.Module, choice: Optimiser) -> list[torch.optim.Optimizer]:
    """AdamW for all that is trained, or Muon for the layers' matrices and AdamW for the rest."""
    matrices, others = split_parameters(network)
    optimizers: list[torch.optim.Optimizer] = []
    if choice.kind == "muon":
        optimizers.append(Muon(matrices, lr=choice.muon_learning_rate, weight_decay=choice.weight_decay))
    else:
        others = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizers.append(
        torch.optim.AdamW(others, choice.learning_rate, betas=choice.betas, weight_decay=choice.weight_decay)
    )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["top_lr"] = group["lr"]
    return optimizers


def take_rows(rows: Rows, place: Place) -> Rows:
    """Return this process' rows, on its device."""
    return Rows(*(own_rows(one, place) for one in (rows.tokens, rows.documents, rows.weights)))


def own_rows(tensor: Tensor, place: Place) -> Tensor:
    """Return every so-manieth row of a batch, from this process' rank on."""
    return tensor[place.rank :: place.world].to(place.device)
