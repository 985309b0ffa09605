"""A target and a drafter that play a recording: the engine around them is the real one, only the networks are not.

The target's token at a position is a function of the position alone; the drafter, which knows the recording, proposes
it as often in a row as the recording says it was accepted there, and then something else. So the engine's own
verification finds what was recorded. Both tell the clock of what they were asked to do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.replay.clock import ReplayClock
from bench.replay.recording import Recording
from core.tensors import Commit, Draft, DraftAsk
from drafters.base import DrafterSpec
from models.layers import Attend
from models.qwen3 import Qwen3, Qwen3Config

VOCABULARY = 32
# The prompt names the request: its number in two digits of base VOCABULARY.
PROMPT_LEN = 2
MOST_REQUESTS = VOCABULARY**PROMPT_LEN


def prompt_of(request: int) -> tuple[int, int]:
    """Return the prompt that stands for a recorded request."""
    return divmod(request, VOCABULARY)


def token_at(position: Tensor) -> Tensor:
    """Return the target's token at absolute positions."""
    return (position * 7 + 3) % VOCABULARY


class ReplayTarget(Qwen3):
    """Knows one text. Its forward takes the time that the clock says and computes nothing."""

    def __init__(self, clock: ReplayClock, max_model_len: int) -> None:
        config = Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=1,
            intermediate_size=1,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=2,
            max_position_embeddings=max_model_len,
        )
        super().__init__(config)
        self._clock = clock

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Attend,  # noqa: ARG002 - nothing is attended to
        capture: tuple[int, ...] = (),
    ) -> tuple[Tensor, Tensor | None]:
        """Return each row's position [N, 1], and [N, 1] features where the drafter asks for them."""
        self._clock.verify(len(tokens))
        return positions[:, None], positions[:, None].float() if capture else None

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V] with the row's next token on top."""
        return torch.nn.functional.one_hot(token_at(hidden[:, 0] + 1), VOCABULARY).float()


class ReplayDrafter:
    """Proposes what was recorded; keeps no state but which request is in which slot."""

    def __init__(self, recording: Recording, clock: ReplayClock) -> None:
        self.spec = DrafterSpec(name="replay", max_drafts=recording.width, feature_layers=(0,), point_mass=True)
        self._accepted, self._evidence = map(torch.from_numpy, (recording.accepted, recording.evidence))
        self._clock = clock
        self._request: dict[int, int] = {}

    def open(self, slot: int, tokens: Sequence[int], num_cached: int) -> None:  # noqa: ARG002
        """Read from the prompt which request it is."""
        self._request[slot] = tokens[0] * VOCABULARY + tokens[1]

    def extend(self, commit: Commit) -> None:
        """Take rows in: that they were run is all there is to it."""

    def propose(self, ask: DraftAsk) -> Draft:
        """Return the recorded block of every anchor."""
        self._clock.draft(len(ask.slots))
        request = torch.tensor([self._request[slot] for slot in ask.slots.tolist()])
        place = ask.positions - (PROMPT_LEN - 1)
        offset = torch.arange(self.spec.max_drafts)
        right = token_at(ask.positions[:, None] + 1 + offset)
        is_accepted = offset < self._accepted[request, place][:, None]
        tokens = torch.where(is_accepted, right, (right + 1) % VOCABULARY)
        point_mass = torch.ones(len(request), dtype=torch.bool)
        return Draft(tokens, ask.lengths, point_mass, None, self._evidence[request, place])

    def release(self, slot: int) -> None:
        """Forget a slot."""
        self._request.pop(slot, None)
