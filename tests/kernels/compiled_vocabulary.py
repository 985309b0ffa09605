"""The kernels over the vocabulary and over drafts, in the configurations that are used, for compile_offline.py."""

import torch

from kernels import admit, coupled, logprobs, markov, markov_told, noise, process_tiles, reject, survival
from tests.kernels.compile_case import EVERYWHERE, CompileCase

# By argument name; kernels use a name for one type only.
TYPES = {
    "*fp32": "logits q_logits uniforms norms soft_labels survival noise temperature best margins log_total gates state"
    " labels edited laws bias repetition frequency presence top_p"
    " log_min_p evidence line logprob top_logprobs",
    "*i64": "tokens first next_token low high child first_position positions drawn anchors target_ids sequence"
    " offset drafts bits_row bias_ids ban_ids min_left top_k top_ids",
    "*i32": "lengths drafted accepted rank falls best_ids counts",
    "*i1": "certain member coupled in_prompt",
    "i32": "vocab width batch longest last num_tiles num_draftable slot own_stride num_bits num_drafts num_biases"
    " num_bans num",
    "fp32": "floor ratio",
    "*i8": "accepts",
    "*u8": "bits",
    "*fp64": "seconds",
    "*bf16": "told w1 w2 own",
}
ARGUMENTS = {name: kind for kind, names in TYPES.items() for name in names.split()}
# The published heads' rank and the demo's; three kinds of weights.
BLOCK, RANKS = 7, {"": 256, "_rank64": 64}
ROWS = (16, 32, 64)
WEIGHTS = {"": "*bf16", "_fp16": "*fp16", "_fp32": "*fp32"}
DTYPES = {"*bf16": torch.bfloat16, "*fp16": torch.float16, "*fp32": torch.float32}


def case(name, kernel, *, is_quick=True, options=None, types=None, targets=EVERYWHERE, multiplies=False, **constants):
    return CompileCase(
        name,
        kernel,
        constants,
        ARGUMENTS | (types or {}),
        options or {},
        is_quick=is_quick,
        targets=targets,
        multiplies=multiplies,
    )


def head_tile(name, rows, *, rank=256, weights="*bf16", base=None, is_quick=True, **changes):
    constants = {"NOISE": markov.NO_NOISE, "DRAWS": True, "HAS_IDS": False, **changes}
    weights_in, logits_in = (DTYPES[name] for name in (weights, base or weights))
    constants |= {"RANK": rank, "CHUNK": markov.chunk_size(rank, weights_in), "ROWS": rows, "TILE": markov.TILE}
    is_whole = constants["DRAWS"] and not constants["HAS_IDS"]
    return case(
        f"head_tile_{rows}{name}",
        markov._tile_kernel,
        is_quick=is_quick,
        options=markov.tile_options(rows, constants["NOISE"], logits_in, is_whole=is_whole),
        types={"logits": base or weights, "told": weights, "w2": weights},
        # Who has how many rows: `markov.tile_rows`.
        targets=EVERYWHERE if rows == 16 else ("sm_80", "sm_90"),
        multiplies=True,
        **constants,
    )


def head_fold(name, vocab, kind, *, rank=256, weights="*bf16", is_quick=True, coupled=True, has_ids=False, ends=False):
    num_tiles = -(-vocab // markov.TILE)
    return case(
        f"head_fold_{name}",
        markov._fold_kernel,
        is_quick=is_quick,
        options={"num_warps": markov.FOLD_WARPS},
        types=dict.fromkeys(("told", "w1", "own"), weights),
        TILE=markov.TILE,
        TILES=1 << (num_tiles - 1).bit_length(),
        HAS_COUPLED=coupled,
        HAS_IDS=has_ids,
        IS_LAST=ends,
        **markov.tell_constants(rank, kind),
    )


def head_start(name, kind, *, rank=256, weights="*bf16"):
    types = dict.fromkeys(("told", "w1", "own"), weights)
    constants = markov.tell_constants(rank, kind)
    return case(f"head_start_{name}", markov_told.start_kernel, is_quick=False, types=types, **constants)


KINDS = {"vanilla": markov_told.VANILLA, "gated": markov_told.GATED, "rnn": markov_told.RECURRENT}
CASES = [
    case("judge", reject._judge_kernel, HAS_Q=True, TILE=reject.TILE),
    case("judge_point_mass", reject._judge_kernel, HAS_Q=False, TILE=reject.TILE),
    case("draw", reject._draw_kernel, HAS_Q=True, TILE=reject.TILE, WIDTH=8),
    case("draw_point_mass", reject._draw_kernel, HAS_Q=False, TILE=reject.TILE, WIDTH=8),
    case("prefix", admit._prefix_kernel, ROWS=admit.SLOTS // 8, WIDTH=8),
    case("rank", admit._rank_kernel, EARLY=False, ROWS=admit.SLOTS // 8, WIDTH=8),
    case("rank_early", admit._rank_kernel, EARLY=True, ROWS=admit.SLOTS // 8, WIDTH=8),
    case("noise", noise._noise_kernel, is_quick=False, TILE=noise.TILE),
    case("race", coupled._race_kernel, NAMED=True, TILE=coupled.TILE),
    case("race_given", coupled._race_kernel, is_quick=False, NAMED=False, TILE=coupled.TILE),
    case("survival", survival._survival_kernel, is_quick=False, HAS_LINE=True, ROWS=survival.CELLS // 8, WIDTH=8),
    case("scores", logprobs._scores_kernel, types={"rank": "*i64"}, TILES=256, TILE=logprobs.TILE),
    case("scores_4096", logprobs._scores_kernel, types={"rank": "*i64"}, is_quick=False, TILES=4, TILE=logprobs.TILE),
    case("keep", coupled._keep_kernel, is_quick=False, WIDTH=8),
    case(
        "edit",
        process_tiles._edit_kernel,
        HAS_BITS=True,
        HAS_COUNTS=True,
        HAS_DRAFTS=True,
        BIASES=256,
        BANS=64,
        TILE=process_tiles.TILE,
        options={"num_warps": process_tiles.WARPS},
    ),
    case(
        "law",
        process_tiles._law_kernel,
        TRUNCATES=True,
        TILE=process_tiles.TILE,
        DIGIT_TILE=process_tiles.DIGIT_TILE,
        options={"num_warps": process_tiles.WARPS},
    ),
    case(
        "law_plain",
        process_tiles._law_kernel,
        is_quick=False,
        TRUNCATES=False,
        TILE=process_tiles.TILE,
        DIGIT_TILE=process_tiles.DIGIT_TILE,
        options={"num_warps": process_tiles.WARPS},
    ),
    *(head_tile("", rows, is_quick=rows != 32) for rows in ROWS),
    *(head_tile("_greedy", rows, DRAWS=False, is_quick=False) for rows in ROWS),
    *(head_tile("_named", rows, NOISE=markov.NAMED_NOISE, is_quick=rows == 32) for rows in (16, 32)),
    *(head_tile("_noise", rows, NOISE=markov.NOISE, is_quick=False) for rows in (16, 32)),
    *(head_tile("_capped", rows, base="*fp32", is_quick=False) for rows in ROWS),
    *(head_tile("_ids", rows, base="*fp32", is_quick=False, HAS_IDS=True) for rows in ROWS),
    *(
        head_tile("_reduced", rows, base="*fp32", is_quick=False, NOISE=markov.NAMED_NOISE, HAS_IDS=True)
        for rows in (16, 32)
    ),
    *(
        head_tile(f"{rank}{kind}", rows, rank=RANKS[rank], weights=WEIGHTS[kind], is_quick=False)
        for rank in RANKS
        for kind in WEIGHTS
        for rows in (ROWS if kind != "_fp32" else (16, 32))
        if rank or kind
    ),
    *(
        head_fold(f"{name}_{vocab}", vocab, kind, is_quick=name == "gated")
        for name, kind in KINDS.items()
        for vocab in (151936,)
    ),
    *(head_fold(f"{name}_4096_rank64", 4096, kind, rank=64, is_quick=False) for name, kind in KINDS.items()),
    *(
        head_fold(f"{name}_32000_fp32", 32000, kind, weights="*fp32", has_ids=True, is_quick=False)
        for name, kind in KINDS.items()
    ),
    head_fold("last_151936", 151936, markov_told.VANILLA, coupled=False, ends=True, is_quick=False),
    *(head_start(name, kind) for name, kind in KINDS.items()),
]
