"""What a step costs on this machine, by its shape: measured once at start-up, read by policies and metrics."""

from msgspec import Struct


class CostTable(Struct, frozen=True):
    """Seconds of a step over a grid of decoding sequences and contexts; immutable, published whole.

    sequences   [S] grid of decoding sequences, ascending
    lengths     [L] grid of drafts verified per sequence, ascending from 0
    contexts    [C] grid of tokens of context per sequence, ascending
    plain_s     [C][S] a whole step with nothing drafted and no drafter followed
    verify_s    [C][S][L] a step whose drafters are followed, all of it but drafting
    draft_s     [C][S] proposing for that many sequences
    prefill_row_s, catch_up_row_s   one more row of either kind
    """

    sequences: tuple[int, ...]
    lengths: tuple[int, ...]
    contexts: tuple[int, ...]
    plain_s: tuple[tuple[float, ...], ...]
    verify_s: tuple[tuple[tuple[float, ...], ...], ...]
    draft_s: tuple[tuple[float, ...], ...]
    prefill_row_s: float
    catch_up_row_s: float
