"""Device-side nouns of specd: what the engine, drafters and kernels hand each other as tensors.

Shapes use B sequences in the step, G most drafts, V vocabulary, F feature width, N rows. All are complete at birth
and never changed; the KV tensors they point to are owned by the engine.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PagedKV:
    """A view of one group's KV cache for the sequences of one call.

    keys, values   per layer [num_blocks, block_size, Hkv, D]; written in place by whoever the call allows to
    block_tables   i64 [B, max_blocks]; row b lists the blocks of sequence b in order, padded with block 0
    block_size     rows per block
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    block_tables: Tensor
    block_size: int


@dataclass(frozen=True, slots=True)
class Edits:
    """What changes raw logits before temperature, for the B sequences of a call.

    bias_ids, bias        i64 [B, K] padded with -1, f32 [B, K]; added to the logits
    repetition            f32 [B]; 1 is off: positive logits of tokens seen in prompt or output are divided by it,
                          negative ones multiplied
    frequency, presence   f32 [B]; 0 is off: subtracted per occurrence in the output, and once if there is any
    counts                i32 [B, V] occurrences in the output up to and including the anchor; None if no sequence has
                          a penalty
    in_prompt             bool [B, V]; None with counts
    ban_ids               i64 [B, S] padded with -1; -inf while fewer than min_tokens tokens are out
    min_left              i64 [B]; output tokens after the anchor that must come before ban_ids are allowed
    """

    bias_ids: Tensor
    bias: Tensor
    repetition: Tensor
    frequency: Tensor
    presence: Tensor
    counts: Tensor | None
    in_prompt: Tensor | None
    ban_ids: Tensor
    min_left: Tensor


@dataclass(frozen=True, slots=True)
class Processing:
    """How logits become a law, per sequence [B]; temperature 0 is greedy, top_k 0, top_p 1 and min_p 0 are off.

    is_plain, truncates and is_greedy are host facts that let whole kernels be skipped: every temperature is 1 and
    nothing truncates or edits; some row uses top-k, top-p or min-p; every temperature is 0. edits is None where no
    sequence has any.
    """

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    is_plain: bool
    truncates: bool
    edits: Edits | None = None
    is_greedy: bool = False


@dataclass(frozen=True, slots=True)
class Allowed:
    """The tokens that grammars allow in some of N rows of logits.

    rows  i64 [M]; which, each at most once
    bits  u8 [M, K], K >= V / 8; bit v % 8 of byte v // 8 is set where token v is allowed. Some bit of each row is
    """

    rows: Tensor
    bits: Tensor


@dataclass(frozen=True, slots=True)
class LawRows:
    """Which law each of N rows of logits is: that of `sequence`, after `offset` drafts past its anchor.

    sequence  i64 [N]; into the Processing
    offset    i64 [N]
    drafts    i64 [B, G]; drafts before a row count as output for penalties (the target's side); None freezes the
              counts at the anchor (the drafter's side)
    allowed   what grammars say of these rows (the target's side only); None where they say nothing
    """

    sequence: Tensor
    offset: Tensor
    drafts: Tensor | None = None
    allowed: Allowed | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """Rows that became final, ragged over sequences, for `Drafter.extend`.

    slots        i64 [B]
    cu_rows      i64 [B + 1]; rows of sequence b are cu_rows[b]..cu_rows[b + 1] - 1
    positions    i64 [N]; absolute
    tokens       i64 [N]; the row's own input token
    next_tokens  i64 [N]; the committed token at position + 1
    features     [N, F], or None for drafters without feature_layers
    kv           the drafter's own group, or None if it has no KV
    """

    slots: Tensor
    cu_rows: Tensor
    positions: Tensor
    tokens: Tensor
    next_tokens: Tensor
    features: Tensor | None
    kv: PagedKV | None


@dataclass(frozen=True, slots=True)
class CoupledKeys:
    """Coupled noise [B, P, V] by what names it, not by its numbers: a GPU makes them on the fly (kernels/noise.py).

    low, high  i64 [B]; the two words of each request's coupled key
    child      i64 [B]; which child of its request
    first      i64 [B]; the absolute position that column 0 is for, the anchor's + 1; column j is for first + j
    """

    low: Tensor
    high: Tensor
    child: Tensor
    first: Tensor

    def at(self, column: int) -> "CoupledKeys":
        """Return what names the noise from a column on."""
        return CoupledKeys(self.low, self.high, self.child, self.first + column)

    def of(self, index: Tensor) -> "CoupledKeys":
        """Return what names the noise of some sequences, index i64 [b]."""
        return CoupledKeys(self.low[index], self.high[index], self.child[index], self.first[index])


@dataclass(frozen=True, slots=True)
class DraftAsk:
    """What the engine asks of a drafter for one step.

    slots, anchors, positions  i64 [B]; the anchor's token id and absolute position
    lengths                    i32 [B], 1..G; more need not be drafted
    processing                 the requests' logit processing, for q
    noise                      f32 [B, G] uniform in [0, 1); with gumbel the only randomness a drafter gets
    gumbel                     f32 [B, G, V], or on a GPU what names it, or None where no sequence is coupled; a
                               coupled token is argmax(log q + gumbel), the very noise its verification will use
    coupled                    bool [B]; whose tokens gumbel draws; None with gumbel
    kv                         the drafter's own group, or None
    """

    slots: Tensor
    anchors: Tensor
    positions: Tensor
    lengths: Tensor
    processing: Processing
    noise: Tensor
    kv: PagedKV | None
    gumbel: Tensor | CoupledKeys | None = None
    coupled: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """Proposed tokens and the law they were drawn from.

    tokens      i64 [B, G]
    lengths     i32 [B], 0..G; drafts that exist
    point_mass  bool [B]; the draft is deterministic, q is one at the token
    q_logits    f32 [B, G, V] after all processing, the very numbers sampled from; None if all are point masses. On a
                GPU what lies in rows of point masses and of coupled sequences is undefined: no verifier reads it
    evidence    f32 [B, G]; logit of conditional acceptance. lengths[b] = k and evidence[:, k] never depend on
                tokens[:, k:]
    forced      bool [B, G]; places that the engine itself filled, with the one token that a grammar leaves: each is a
                point mass, whatever law the rest of its row was drawn from. None where there are none
    """

    tokens: Tensor
    lengths: Tensor
    point_mass: Tensor
    q_logits: Tensor | None
    evidence: Tensor
    forced: Tensor | None = None

    @property
    def is_certain(self) -> Tensor:
        """Where q is one at the token, bool [B, G]."""
        certain = self.point_mass[:, None].expand(self.tokens.shape)
        return certain if self.forced is None else certain | self.forced


@dataclass(frozen=True, slots=True)
class Favour:
    """Whose drafts are admitted first, by the policies' words: fixed before the drafts exist.

    floor   i32 [B]; so many first drafts are verified whatever the rule says, and come first in TopK's order
    weight  f32 [B] above 0; multiplies survivals in TopK's order
    """

    floor: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class VerifyRows:
    """The ragged rows of one target forward, in batch order.

    tokens, positions  i64 [N]
    cu_rows            i64 [B + 1]
    block_tables       i64 [B, max_blocks]
    stores             bool [N]; whether the row's key and value are written. Catch-up rows run again only for their
                       features, over cache rows that may be shared by now. None: all are
    """

    tokens: Tensor
    positions: Tensor
    cu_rows: Tensor
    block_tables: Tensor
    stores: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification decided.

    accepted     i32 [B]; drafts kept, accepted <= verified <= drafted
    next_token   i64 [B]; the residual draw after a rejection, else the bonus token from the target's own law
    verified     i32 [B]
    soft_labels  f32 [B, G]; at each verified draft the chance, before the token was drawn, that it would be accepted,
                 0 past them: the sum of min(p, q) under `rejection`; under `coupled` 1 if it was accepted, else 0
    """

    accepted: Tensor
    next_token: Tensor
    verified: Tensor
    soft_labels: Tensor
