"""The drafter contract: what the engine may know of a drafter, and what a drafter may rely on."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from core.planning import Calibration
from core.tensors import Commit, Draft, DraftAsk


class DrafterSpec(Struct, frozen=True, kw_only=True):
    """All that the engine may know of a drafter; it never asks for a name or a type.

    max_drafts         G, the most tokens one proposal holds
    feature_layers     target layers whose residual streams `Commit.features` must carry, ascending; () for none
    kv_layers          (kv heads, head_dim) of each layer of the KV group the engine keeps for it; () for none
    lookahead          by how many slots what it stores of a row lies behind the row (Eagle3: 1, the feature of row t
                       is paired with token t + 1). That many rows before the end of blocks that it finds written,
                       its own of a prefix or another sequence's, are run again for their features
    point_mass         proposals are deterministic, q is one at the proposed token
    needs_host_tokens  reads token values on the host, which forces the synchronous loop
    is_capturable      propose does the same for every ask of as many sequences under laws of one kind: no value of a
                       tensor is looked at on the host, no shape depends on one, and nothing of the drafter's own is
                       replaced. A GPU may then replay it without calling it
    calibration        what its evidence is known to mean, G places, before serving has taught better; None takes it for
                       the logit of acceptance that it should be
    """

    name: str
    max_drafts: int
    feature_layers: tuple[int, ...] = ()
    kv_layers: tuple[tuple[int, int], ...] = ()
    lookahead: int = 0
    point_mass: bool = False
    needs_host_tokens: bool = False
    is_capturable: bool = False
    calibration: Calibration | None = None


class Drafter(Protocol):
    """Proposes tokens for the target to verify.

    Calls come from the engine's one thread. `propose` must leave nothing that a rejection has to undo: what it writes
    past the committed length is overwritten later. Tokens drawn from a law must be drawn from the very q_logits that
    are returned, with `DraftAsk.noise` as the only randomness.
    """

    spec: DrafterSpec

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:
        """Begin a new, resumed or preempted sequence; its first num_cached rows are in the drafter's KV already."""
        ...

    def extend(self, commit: Commit) -> None:
        """Take in rows that became final; a prefill chunk is just an extend."""
        ...

    def propose(self, ask: DraftAsk) -> Draft:
        """Draft up to ask.lengths tokens after each anchor."""
        ...

    def release(self, slot: int) -> None:
        """Forget a sequence."""
        ...
