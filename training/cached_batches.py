"""Batches whose features are on disk (training/feature_cache.py), and how such a cache is made from text."""

import random
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from core.errors import DataError
from models.target import Target
from training.feature_cache import CacheReader, CacheWriter, Origin, Sample
from training.features import States, target_states
from training.learnt_window import learnt_window
from training.packed_rows import PADDING, Text
from training.packing import Rows
from training.recipe import Data, Run
from training.sources import Batch

FLUSH_SAMPLES = 64


class CachedBatches:
    """Samples one to a row, padded to the longest; an epoch is every sample once, in an order of its own."""

    def __init__(self, reader: CacheReader, data: Data, run: Run) -> None:
        self._reader, self._row_len, self._run = reader, data.row_len, run
        self.sha256 = reader.sha256
        self._epoch, self._order = -1, list(range(len(reader)))
        self.batches_per_epoch = len(reader) // run.num_rows
        if not self.batches_per_epoch:
            raise DataError(f"{data.folder} holds {len(reader)} samples, too few for {run.num_rows} rows")

    def batch(self, number: int) -> Batch:
        """Return batch `number` of the run, without end."""
        epoch, place = divmod(number, self.batches_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, list(range(len(self._reader)))
            random.Random(f"{self._run.seed} {epoch}").shuffle(self._order)  # noqa: S311, a seed must give the same
        chosen = self._order[place * self._run.num_rows : (place + 1) * self._run.num_rows]
        samples = [_cut(self._reader.sample(index), self._row_len) for index in chosen]
        tokens, weights, features, last_hidden = (
            pad_sequence(list(parts), batch_first=True) for parts in zip(*samples, strict=True)
        )
        lengths = torch.tensor([len(sample.tokens) for sample in samples])
        documents = torch.where(torch.arange(tokens.shape[1]) < lengths[:, None], 0, PADDING)
        weights[:, 0] = 0.0
        return Batch(Rows(tokens, documents, weights), States(last_hidden, features))


def open_cache(
    data: Data, run: Run, target: Target, layer_ids: tuple[int, ...], name: str, target_sha256: str
) -> CachedBatches:
    """Open a cache for a drafter that reads these layers of `target`; raises DataError naming what differs.

    A cache of DeepSpec's knows its target by name alone: another name than `name` is told, for it may be the same.
    """
    reader = CacheReader(Path(data.folder))
    found = reader.manifest
    if found.target_layer_ids != layer_ids:
        raise DataError(
            f"{data.folder} holds target_layer_ids {list(found.target_layer_ids)}, the drafter reads {list(layer_ids)}"
        )
    if found.hidden_size != target.shape.hidden_size:
        raise DataError(
            f"{data.folder} is of hidden_size {found.hidden_size}, the target has {target.shape.hidden_size}"
        )
    if found.origin is None:
        if found.target_model_name_or_path not in ("", name):
            print(
                f"note: {data.folder} is of target {found.target_model_name_or_path!r}, the recipe's is {name!r}: "
                "train on it only if both have the same weights",
                flush=True,
            )
    elif found.origin.target_sha256 != target_sha256:
        raise DataError(
            f"{data.folder} holds features of another target, {found.target_model_name_or_path!r} (weights "
            f"{found.origin.target_sha256[:12]}), than the recipe's, {name!r} ({target_sha256[:12]}); "
            "set target to that one, or cache the features anew"
        )
    elif data.row_len > found.origin.row_len:
        raise DataError(
            f"{data.folder} holds texts that are cut at {found.origin.row_len} tokens, and data.row_len is "
            f"{data.row_len}; set data.row_len = {found.origin.row_len}, or cache the features anew"
        )
    return CachedBatches(reader, data, run)


def write_cache(
    texts: Iterable[Text],
    target: Target,
    layer_ids: tuple[int, ...],
    name: str,
    folder: Path,
    origin: Origin,
    show: Callable[[int], None] = lambda _: None,
) -> int:
    """Run the target over texts and keep what it makes of them; returns how many samples there are.

    Goes on where a stopped call left off, if it is given the same texts; raises DataError where `origin` says that
    it is not.
    """
    writer = CacheWriter(folder, name, layer_ids, target.shape.hidden_size, origin)
    device = target.embedding.device
    for number, text in enumerate(texts):
        if number < writer.num_samples:
            continue
        window = learnt_window(text.mask, origin.row_len)
        tokens = torch.from_numpy(text.tokens[window]).long().to(device)[None]
        rows = Rows(tokens, torch.zeros_like(tokens), torch.zeros_like(tokens))
        states = target_states(target, rows, layer_ids)
        mask = torch.from_numpy(text.mask[window]).float()
        writer.add(Sample(tokens[0], mask, states.features[0], states.last_hidden[0]))
        if writer.num_samples % FLUSH_SAMPLES == 0:
            writer.flush()
            show(writer.num_samples)
    writer.flush()
    return writer.num_samples


def _cut(sample: Sample, row_len: int) -> Sample:
    window = learnt_window(sample.loss_mask.numpy() > 0, row_len)
    return Sample(*(part[window] for part in sample))
