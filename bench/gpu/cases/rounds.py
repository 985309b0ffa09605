"""Cases of what decides a round's verify lengths: survivals from evidence, and admission by every rule."""

from functools import partial

import torch

from bench.gpu.contract import Call, Case, close_to, equal_to, generator, num_bytes
from core.planning import Calibration, EarlyStop, FixedLength, Rule, Threshold, TopK
from kernels import reference
from kernels.admit import admit
from kernels.survival import survival

WIDTH = 7


def cases(is_dry_run: bool) -> list[Case]:
    """Return the cases of admit and survival."""
    sizes = (1, 9) if is_dry_run else (1, 9, 63, 256)
    found = []
    for batch in sizes:
        is_largest = batch == sizes[-1]
        for name, rule in rules(batch).items():
            build = partial(_admit, batch, rule)
            found.append(Case("admit", f"{name}/B{batch}", build, is_timed=is_largest))
        found.append(Case("survival", f"B{batch}", partial(_survival, batch), is_timed=is_largest))
    return found


def rules(batch: int) -> dict[str, Rule]:
    """Return a rule of every kind, with limits that matter at this many sequences."""
    most = batch * WIDTH
    return {
        "fixed": FixedLength(3),
        "threshold": Threshold(0.3, cumulative=True),
        "conditional": Threshold(0.5, cumulative=False),
        "topk": TopK(max(1, most // 3)),
        "early_stop": EarlyStop(tuple(1.0 + 0.02 * rows for rows in range(most + 1)), (most,)),
    }


def _admit(batch: int, rule: Rule, device: torch.device) -> Call:
    rng = generator(device, batch)
    conditional = torch.rand(batch, WIDTH, generator=rng, device=device)
    # Quarters make ties, which are ordered by position and row.
    conditional = torch.where(conditional < 0.5, (conditional * 5).floor() / 4, conditional)
    survivals = conditional.cumprod(1)
    drafted = torch.randint(WIDTH + 1, (batch,), generator=rng, device=device, dtype=torch.int32)
    group = torch.zeros(batch, dtype=torch.int64, device=device)
    on_host = survivals.cpu(), drafted.cpu(), group.cpu(), (rule,)
    return Call(
        lambda: {"lengths": admit(survivals, drafted, group, (rule,))},
        equal_to(lambda: {"lengths": reference.admit(*on_host)}),
        num_bytes(survivals, drafted, group, drafted),
    )


def _survival(batch: int, device: torch.device) -> Call:
    rng = generator(device, batch)
    evidence = 2 * torch.randn(batch, WIDTH, generator=rng, device=device)
    lengths = torch.randint(WIDTH + 1, (batch,), generator=rng, device=device, dtype=torch.int32)
    calibration = Calibration(tuple(0.8 + 0.05 * k for k in range(WIDTH)), tuple(0.1 * k for k in range(WIDTH)))
    return Call(
        lambda: {"survival": survival(evidence, lengths, calibration)},
        close_to(lambda: {"survival": reference.survival(evidence.double(), lengths, calibration)}, 1e-5),
        num_bytes(evidence, lengths, evidence),
    )
