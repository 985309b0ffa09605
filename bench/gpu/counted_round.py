"""What a round of 128 sequences takes, counted part by part without a device: bytes and operations over ceilings.

    python -m bench.gpu.counted_round        prints the table of docs/kernels.md

A part takes the longer of moving its bytes and doing its products; parts follow one another. The round is the one that
the stage `round` takes apart on a device: Qwen3-8B with a DSpark drafter of the published shape. Norms, rotations and
gates between the products are left out, whose activations mostly stay in the cache, and so is the host: a real round is
longer, and the head's share of it smaller.
"""

from msgspec import Struct

from bench.gpu.ceilings import Ceilings
from bench.gpu.random_pair import DRAFT_LAYERS, MARKOV_RANK, NUM_DRAFTS, QWEN3_8B
from bench.gpu.round_parts import BATCHES, CONTEXT
from kernels.markov import TILE

# Nine tenths of an H100's 3.35 TB/s and two thirds of its 989 TFLOP/s: what large copies and products reach there.
H100 = Ceilings(0.9 * 3.35e12, 0.667 * 989e12)
BFLOAT16, FLOAT32 = 2, 4
BATCH, VOCAB, HIDDEN = max(BATCHES), QWEN3_8B.vocab_size, QWEN3_8B.hidden_size


class Part(Struct, frozen=True):
    """A part of a round: bytes moved and operations in matrix products."""

    name: str
    num_bytes: float
    operations: float = 0.0

    @property
    def seconds(self) -> float:
        """The least time it takes under the ceilings."""
        return H100.floor_s(self.num_bytes, self.operations)


def parts(*, is_sampled: bool) -> list[Part]:
    """Return the parts of a round; every sequence is drafted for, at a temperature of 1 or greedily."""
    rows, drafts = BATCH * (1 + NUM_DRAFTS), BATCH * NUM_DRAFTS
    return [
        layers("verify: products", QWEN3_8B.num_hidden_layers, rows),
        attention("verify: attention", QWEN3_8B.num_hidden_layers),
        output("verify: logits", rows, FLOAT32),
        layers("backbone: products", DRAFT_LAYERS, drafts),
        attention("backbone: attention", DRAFT_LAYERS),
        output("backbone: base logits", drafts, 0),
        head(is_sampled=is_sampled),
        verdict(is_sampled=is_sampled),
    ]


def layers(name: str, num_layers: int, rows: int) -> Part:
    """Return the products of decoder layers over rows: weights are read once."""
    shape = QWEN3_8B
    heads = (2 * shape.num_attention_heads + 2 * shape.num_key_value_heads) * shape.head_dim
    weights = num_layers * HIDDEN * (heads + 3 * shape.intermediate_size)
    return Part(name, BFLOAT16 * weights, 2.0 * weights * rows)


def attention(name: str, num_layers: int) -> Part:
    """Return the reading of every context's keys and values, once for all rows of its sequence."""
    places = BATCH * CONTEXT * num_layers
    return Part(name, 2 * BFLOAT16 * places * QWEN3_8B.num_key_value_heads * QWEN3_8B.head_dim)


def output(name: str, rows: int, widened: int) -> Part:
    """Return the product that makes logits, in bfloat16, and their copy in numbers of `widened` bytes, 0: none."""
    copied = (BFLOAT16 + widened) if widened else 0
    num_bytes = BFLOAT16 * VOCAB * HIDDEN + (BFLOAT16 + copied) * VOCAB * rows
    return Part(name, num_bytes, 2.0 * VOCAB * HIDDEN * rows)


def head(*, is_sampled: bool) -> Part:
    """Return the sequential head (kernels/markov.py): W2, base logits, laws of what is sampled, remains of tiles."""
    law = FLOAT32 if is_sampled else 0
    remains = 2 * 4 * FLOAT32 * BATCH * -(-VOCAB // TILE)
    slot = BFLOAT16 * VOCAB * MARKOV_RANK + (BFLOAT16 + law) * VOCAB * BATCH + remains
    return Part("head", NUM_DRAFTS * slot, 2.0 * NUM_DRAFTS * VOCAB * MARKOV_RANK * BATCH)


def verdict(*, is_sampled: bool) -> Part:
    """Return rejection (kernels/reject.py): p and q of a sampled draft twice, p once where it is certain; one draw."""
    judged = 4 if is_sampled else 1
    return Part("verdict", FLOAT32 * VOCAB * BATCH * (NUM_DRAFTS * judged + 1 + (4 if is_sampled else 2)))


def table(*, is_sampled: bool) -> list[str]:
    """Return the Markdown table of a round's parts."""
    counted = parts(is_sampled=is_sampled)
    whole = sum(part.seconds for part in counted)
    lines = ["| part | GB | TFLOP | ms | share |", "| --- | ---: | ---: | ---: | ---: |"]
    for part in [*counted, None]:
        name = "all" if part is None else part.name
        moved = sum(one.num_bytes for one in counted) if part is None else part.num_bytes
        done = sum(one.operations for one in counted) if part is None else part.operations
        seconds = whole if part is None else part.seconds
        share = f"{seconds / whole:.1%}"
        lines.append(f"| {name} | {moved / 1e9:.2f} | {done / 1e12:.2f} | {1e3 * seconds:.2f} | {share} |")
    return lines


def main() -> int:
    """Print both tables."""
    for is_sampled in (True, False):
        print("sampled" if is_sampled else "greedy", *table(is_sampled=is_sampled), "", sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
