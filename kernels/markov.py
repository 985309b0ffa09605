"""The sequential head of DSpark on a GPU: a block's tokens drawn left to right, two launches for each.

One launch goes over tiles of the vocabulary: it adds the low-rank bias to the base logits, and of each tile leaves the
two largest logits, the sum of exponentials and the best noisy logit. The other, one program per sequence, folds the
tiles, takes the token, and makes of it the vector of rank r that the next slot's bias is W2 times. No probability is
written anywhere, and logits only where a verifier will want them: of sequences that are sampled without coupling.

The twins are models/markov_heads.py, drafters/draws.py and drafters/margin.py.
"""

# Kernel arguments bear no annotations: Triton reads them as code.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.tensors import CoupledKeys, DraftAsk
from kernels.jit import jit, tl
from kernels.markov_told import RECURRENT, VANILLA, start_kernel, tell
from kernels.philox import gumbel_words, philox, rough_gumbel

# Vocabulary entries of one program of the first launch, and the part of the rank it multiplies at once.
TILE, CHUNK = 64, 64
# Programs of the second launch have so many warps, and multiply so many rows of a gate's weight at once; half of them
# where a recurrent head has six products: more would spill.
FOLD_WARPS, GATE_ROWS = 8, 16
# Below it a draft is drawn as at it: logits divided by less could overflow. The law reported is the law drawn from.
LEAST_TEMPERATURE = 1e-4
NO_NOISE, NOISE, NAMED_NOISE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class HeadWeights:
    """A sequential head as the kernels read it (models/markov_heads.py says what it computes).

    w1          [V, r]
    w2          [Vd, r]; Vd is what can be drafted
    target_ids  i64 [Vd]; the target's ids of those; None: all of them, Vd = V
    kind        VANILLA, GATED or RECURRENT
    own         what multiplies e, or s and e, in the gates: [r, r] of a gated head, [3r, 2r] of a recurrent one; rows
                may be strided. None if vanilla
    """

    w1: Tensor
    w2: Tensor
    target_ids: Tensor | None = None
    kind: int = VANILLA
    own: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """What a walk over blocks found.

    tokens     i64 [B, G]
    margins    f32 [B, G]; by how much the largest logit of each slot beats the second, before any processing
    log_total  f32 [B, G]; the log of the sum of exp(logits / temperature), of exp(logits) where that is 0
    law        f32 [B, G, V]; in rows that are sampled without coupling the logits of the law, in others nothing that
               counts
    """

    tokens: Tensor
    margins: Tensor
    log_total: Tensor
    law: Tensor


def can_walk(ask: DraftAsk) -> bool:
    """Tell whether nothing but temperature makes the laws of an ask: what else there is goes through `process`."""
    return ask.processing.is_plain or (ask.processing.edits is None and not ask.processing.truncates)


def walk(logits: Tensor, told_by_slot: Tensor | None, head: HeadWeights, ask: DraftAsk) -> Walk:
    """Draw the tokens of blocks slot by slot, as `DSpark` does.

    logits        [B, G, V], contiguous; the base logits as they were computed. Those in float32 become the law, others
                  are left as they are. Where V is wider than what can be drafted they are in float32, -inf elsewhere
    told_by_slot  f32 [B, G, r or 3r]; what the slots' states add inside the gates, bias included; None if vanilla
    ask           anchors, temperatures, noise and who is coupled; `can_walk` must hold
    bias = W2 t in float32, t in the weights' dtype; base and bias are added in float32. A temperature of 0 takes the
    largest logit, the lowest of equals; a coupled sequence the largest logit / temperature + noise, within 1e-5; any
    other inverts the cumulative law at its uniform, in order of place among the draftable. Sums are float32 within a
    tile, then over tiles in order; they do not depend on the batch. Twin: logits within 1e-4 (float32 weights), tokens
    equal but at boundaries.
    """
    batch, width, _ = logits.shape
    tokens = torch.empty((batch, width), dtype=torch.int64, device=logits.device)
    margins, log_total = (torch.empty((batch, width), dtype=torch.float32, device=logits.device) for _ in range(2))
    law = logits if logits.dtype == torch.float32 else torch.empty_like(logits, dtype=torch.float32)
    if not batch:
        return Walk(tokens, margins, log_total, law)
    rank, num_draftable = head.w2.shape[1], head.w2.shape[0]
    num_tiles = -(-num_draftable // TILE)
    best = torch.empty((4, batch, num_tiles), dtype=torch.float32, device=logits.device)
    ids = torch.empty((2, batch, num_tiles), dtype=torch.int32, device=logits.device)
    told = torch.empty((batch, rank), dtype=head.w1.dtype, device=logits.device)
    # A recurrent state is read by parts of the step that writes the next one: it has two places.
    state = torch.zeros((2, batch, rank if head.kind == RECURRENT else 1), dtype=torch.float32, device=logits.device)
    ids_of = tokens if head.target_ids is None else head.target_ids
    coupled = tokens if ask.coupled is None else ask.coupled
    kind, noise, names = _noise(ask, tokens)
    meaning: dict[str, Any] = {"HAS_IDS": head.target_ids is not None, "TILE": TILE}
    own = head.w1 if head.own is None else head.own
    gates = margins if told_by_slot is None else told_by_slot.contiguous()
    teller = head.w1, own, gates, state, told, batch, width, own.stride(0)
    telling = tell_constants(rank, head.kind)
    start_kernel[(batch,)](ask.anchors, *teller, **telling)
    rows = tile_rows(batch, kind, head.w2.dtype)
    sizes = batch, width, logits.shape[-1], num_draftable, num_tiles
    tiles: dict[str, Any] = {
        "RANK": rank,
        "NOISE": kind,
        "DRAWS": not ask.processing.is_greedy,
        "CHUNK": chunk_size(rank, head.w2.dtype),
        "ROWS": rows,
    }
    temperature, uniforms = ask.processing.temperature, ask.noise.contiguous()
    is_whole = tiles["DRAWS"] and not meaning["HAS_IDS"]
    options = tile_options(rows, kind, logits.dtype, is_whole=is_whole)
    for slot in range(width):
        grid = (-(-batch // rows), num_tiles)
        inputs = logits, law, told, head.w2, ids_of, temperature, coupled, noise, *names
        _tile_kernel[grid](*inputs, best, ids, *sizes, slot, **tiles, **meaning, **options)
        found = tokens, margins, log_total
        folds = {
            "TILES": 1 << (num_tiles - 1).bit_length(),
            "IS_LAST": slot == width - 1,
            "HAS_COUPLED": kind != NO_NOISE,
        }
        read = law, ids_of, temperature, coupled, uniforms, best, ids
        numbers = *sizes[2:], slot
        _fold_kernel[(batch,)](*read, *found, *teller, *numbers, **meaning, **telling, **folds, num_warps=FOLD_WARPS)
    return Walk(tokens, margins, log_total, law)


def tell_constants(rank: int, kind: int) -> dict[str, Any]:
    """Return the constants of the kernels that make what a bias reads."""
    return {
        "RANK": rank,
        "KIND": kind,
        "WIDE": 1 << (rank - 1).bit_length(),
        "ROWS": GATE_ROWS // 2 if kind == RECURRENT else GATE_ROWS,
    }


def tile_rows(batch: int, noise: int, dtype: torch.dtype) -> int:
    """Return the sequences of one program of the first launch: 16, the least of a product, up to 64 on CUDA.

    The more they are, the less often W2, of this type, is read, though from the second time on out of the cache. With
    more than 16 gfx942 spills, with more than 32 a product in float32; and with noise to make, more than 32 leave
    registers for one program at a time.
    """
    if batch <= 16 or torch.version.hip:
        return 16
    return 32 if batch <= 32 or noise != NO_NOISE or dtype == torch.float32 else 64


def chunk_size(rank: int, dtype: torch.dtype) -> int:
    """Return how many of a product's `rank` terms are loaded at a time.

    Of a product in float32, which no matrix unit takes, more than 32 are more than registers hold under Triton 3.6.
    """
    most = CHUNK // 2 if dtype == torch.float32 else CHUNK
    return min(most, max(16, 1 << (rank - 1).bit_length()))


def tile_options(rows: int, noise: int, logits: torch.dtype, *, is_whole: bool) -> dict[str, int]:
    """Return the launch options of a tile; with more stages or fewer warps it would spill.

    is_whole   sampled rows go over the whole vocabulary
    """
    options = {"num_warps": 8 if rows > 16 else 4, "num_stages": 1}
    reads_more = noise == NOISE or logits == torch.float32
    if rows == 16 and is_whole and reads_more and not torch.version.hip:
        # Left to itself, ptxas of Triton 3.6 settles on 64 registers and spills two to four.
        options["maxnreg"] = 80
    return options


def _noise(ask: DraftAsk, unread: Tensor) -> tuple[int, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return which noise there is, its numbers and what names it; `unread` stands where nothing is."""
    match ask.gumbel:
        case CoupledKeys(low=low, high=high, child=child, first=first):
            return NAMED_NOISE, unread, (low, high, child, first)
        case None:
            return NO_NOISE, unread, (unread,) * 4
    return NOISE, ask.gumbel.contiguous(), (unread,) * 4


@jit(do_not_specialize=("batch", "slot"))
def _tile_kernel(
    logits,
    laws,
    told,
    w2,
    target_ids,
    temperature,
    coupled,
    noise,
    low,
    high,
    child,
    first,
    best,
    best_ids,
    batch,
    width,
    vocab,
    num_draftable,
    num_tiles,
    slot,
    RANK: tl.constexpr,
    NOISE: tl.constexpr,
    DRAWS: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_IDS: tl.constexpr,
    TILE: tl.constexpr,
):
    """Of one tile of the vocabulary and some sequences: largest logits, their ids, sums of exponentials, races."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    place = tl.program_id(1) * TILE + tl.arange(0, TILE)
    part = tl.arange(0, CHUNK)
    is_row, is_place = row < batch, place < num_draftable
    # What is not there reads what is: addresses in bounds need no mask, whose registers would spill.
    own, at = tl.minimum(row, batch - 1), tl.minimum(place, num_draftable - 1)
    bias = tl.zeros((ROWS, TILE), tl.float32)
    for start in range(0, RANK, CHUNK):
        column = start + part
        t_at, w_at = told + own[:, None] * RANK + column[None, :], w2 + at[None, :] * RANK + column[:, None]
        if RANK % CHUNK == 0:
            t, w = tl.load(t_at), tl.load(w_at)
        else:
            t = tl.load(t_at, mask=(column < RANK)[None, :], other=0.0)
            w = tl.load(w_at, mask=(column < RANK)[:, None], other=0.0)
        bias = tl.dot(t, w, bias, input_precision="ieee")
    ids = at
    if HAS_IDS:
        ids = tl.load(target_ids + at).to(tl.int32)
    cell = (own * width + slot).to(tl.int64)[:, None] * vocab + ids[None, :]
    logit = tl.load(logits + cell).to(tl.float32) + bias
    logit = tl.where(is_place[None, :], logit, float("-inf"))
    largest, leader = _first_best(logit, place)
    second = tl.max(tl.where(place[None, :] == leader[:, None], float("-inf"), logit), 1)
    heat = tl.load(temperature + own)
    is_greedy = heat == 0.0
    heat = tl.where(is_greedy, 1.0, tl.maximum(heat, 1e-4))
    law = logit / heat[:, None]
    top = largest / heat
    base = tl.where(top == float("-inf"), 0.0, top)
    total = tl.sum(tl.exp(law - base[:, None]), 1)
    out = row * num_tiles + tl.program_id(1)
    stride = batch * num_tiles
    tl.store(best + out, largest, mask=is_row)
    tl.store(best + stride + out, second, mask=is_row)
    tl.store(best + 2 * stride + out, total, mask=is_row)
    tl.store(best_ids + out, leader, mask=is_row)
    is_coupled = row < 0
    if NOISE > 0:
        is_coupled = tl.load(coupled + own) != 0
        # Rows beside a coupled one run along.
        if tl.max(is_coupled.to(tl.int32), 0) > 0:
            if NOISE == 1:
                winner, won = _first_best(law + tl.load(noise + cell), place)
            else:
                k0, k1 = tl.load(low + own).to(tl.uint32), tl.load(high + own).to(tl.uint32)
                number, position = tl.load(child + own).to(tl.uint32), (tl.load(first + own) + slot).to(tl.uint32)
                k0, k1, number, position = k0[:, None], k1[:, None], number[:, None], position[:, None]
                if HAS_IDS:
                    words = gumbel_words(k0, k1, position, number, ids[None, :])
                    winner, won = _first_best(law + rough_gumbel(words), place)
                else:
                    winner, won = _race(law, k0, k1, position, number, tl.program_id(1) * TILE, ROWS, TILE)
            tl.store(best + 3 * stride + out, winner, mask=is_row)
            tl.store(best_ids + stride + out, won, mask=is_row)
    if DRAWS:
        is_drawn = is_row & (is_greedy == 0) & (is_coupled == 0)
        tl.store(laws + cell, law, mask=is_drawn[:, None] & is_place[None, :])


@jit()
def _first_best(value, place):
    """Return the largest of each row of values and the first place that has it."""
    largest = tl.max(value, 1)
    return largest, tl.min(tl.where(value == largest[:, None], place[None, :], 2147483647), 1)


@jit()
def _race(law, low, high, position, child, start, ROWS: tl.constexpr, TILE: tl.constexpr):
    """Return `_first_best` of law + noise, over tokens start .. start + TILE - 1.

    A counter gives the words of four tokens: so the law is split in four, each quarter with a word of its own. To join
    the words instead would leave them in the registers of a product, where two or four threads make each of them.
    """
    group = (start // 4 + tl.arange(0, TILE // 4))[None, :]
    words = philox(group.to(tl.uint32), position, child, 4, low, high)
    even, odd = tl.split(tl.reshape(law, (ROWS, TILE // 4, 2, 2)))
    law0, law2 = tl.split(even)
    law1, law3 = tl.split(odd)
    race0, race1 = law0 + rough_gumbel(words[0]), law1 + rough_gumbel(words[1])
    race2, race3 = law2 + rough_gumbel(words[2]), law3 + rough_gumbel(words[3])
    best = tl.max(tl.maximum(tl.maximum(race0, race1), tl.maximum(race2, race3)), 1)
    at = group * 4
    place = tl.where(race3 == best[:, None], at + 3, 2147483647)
    place = tl.where(race2 == best[:, None], at + 2, place)
    place = tl.where(race1 == best[:, None], at + 1, place)
    place = tl.where(race0 == best[:, None], at, place)
    return best, tl.min(place, 1)


@jit(do_not_specialize=("batch", "slot"))
def _fold_kernel(
    logits,
    target_ids,
    temperature,
    coupled,
    uniforms,
    best,
    best_ids,
    tokens,
    margins,
    log_total,
    w1,
    own,
    gates,
    state,
    told,
    batch,
    width,
    own_stride,
    vocab,
    num_draftable,
    num_tiles,
    slot,
    HAS_IDS: tl.constexpr,
    HAS_COUPLED: tl.constexpr,
    TILE: tl.constexpr,
    RANK: tl.constexpr,
    KIND: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    IS_LAST: tl.constexpr,
):
    """Take one sequence's token of a slot from its tiles, and make what the bias of the next slot reads."""
    row = tl.program_id(0)
    tile = tl.arange(0, TILES)
    is_tile = tile < num_tiles
    part = row * num_tiles + tile
    stride = batch * num_tiles
    largest = tl.load(best + part, mask=is_tile, other=float("-inf"))
    top = tl.max(largest, 0)
    leader = tl.min(tl.where(is_tile & (largest == top), tile, TILES - 1), 0)
    runner_up = tl.max(tl.where(tile == leader, float("-inf"), largest), 0)
    second = tl.maximum(runner_up, tl.load(best + stride + row * num_tiles + leader))
    place = tl.load(best_ids + row * num_tiles + leader)

    heat = tl.load(temperature + row)
    is_greedy = heat == 0.0
    heat = tl.where(is_greedy, 1.0, tl.maximum(heat, 1e-4))
    summit = top / heat
    # Tiles without any chance, and those that are not there, have no mass: exp(-inf).
    mass = tl.load(best + 2 * stride + part, mask=is_tile, other=0.0) * tl.exp(largest / heat - summit)
    all_mass = tl.sum(mass, 0)
    is_coupled = False
    if HAS_COUPLED:
        is_coupled = tl.load(coupled + row) != 0
    cell = row * width + slot
    if (is_greedy == 0) & (is_coupled == 0):
        threshold = tl.load(uniforms + cell) * all_mass
        has_mass = mass > 0.0
        passed = has_mass & (tl.cumsum(mass, 0) > threshold)
        last = tl.max(tl.where(has_mass, tile, 0), 0)
        drawn = tl.min(tl.where(passed, tile, TILES), 0)
        drawn = tl.where(drawn < TILES, drawn, last)
        before = tl.sum(tl.where(tile < drawn, mass, 0.0), 0)
        at = drawn * TILE + tl.arange(0, TILE)
        is_place = at < num_draftable
        ids = at
        if HAS_IDS:
            ids = tl.load(target_ids + at, mask=is_place, other=0).to(tl.int32)
        law = tl.load(logits + cell.to(tl.int64) * vocab + ids, mask=is_place, other=float("-inf"))
        chance = tl.exp(law - summit)
        has_chance = chance > 0.0
        beyond = has_chance & (before + tl.cumsum(chance, 0) > threshold)
        last_place = tl.max(tl.where(has_chance, at, 0), 0)
        place = tl.min(tl.where(beyond, at, num_draftable), 0)
        place = tl.where(place < num_draftable, place, last_place)
    if HAS_COUPLED:  # noqa: SIM102 - a constant; Triton compiles nothing of it where it is false
        if is_coupled & (is_greedy == 0):
            races = tl.load(best + 3 * stride + part, mask=is_tile, other=float("-inf"))
            winner = tl.min(tl.where(is_tile & (races == tl.max(races, 0)), tile, TILES - 1), 0)
            place = tl.load(best_ids + stride + row * num_tiles + winner)
    token = place.to(tl.int64)
    if HAS_IDS:
        token = tl.load(target_ids + place)
    tl.store(tokens + cell, token)
    tl.store(margins + cell, top - second)
    tl.store(log_total + cell, summit + tl.log(all_mass))
    if IS_LAST == 0:
        tell(token, row, slot + 1, w1, own, gates, state, told, batch, width, own_stride, RANK, KIND, WIDE, ROWS)
