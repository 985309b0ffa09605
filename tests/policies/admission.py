"""What the engine does with a plan: admission, by the function that it uses itself."""

import numpy as np
import torch

from core.tensors import Favour
from kernels.admit import admit


def admitted(plan, drafted, live):
    """The verify lengths i32 [B] of drafts with live survivals f32 [B, G]."""
    size = len(drafted)
    floor = np.zeros(size, np.int32) if plan.floor is None else np.minimum(plan.floor, drafted)
    weight = np.ones(size, np.float32) if plan.weight is None else plan.weight
    favour = Favour(*map(torch.from_numpy, (floor.astype(np.int32), weight.astype(np.float32))))
    plain = plan.floor is None and plan.weight is None
    drafted = torch.from_numpy(np.ascontiguousarray(drafted, dtype=np.int32))
    live = torch.from_numpy(np.ascontiguousarray(live, dtype=np.float32))
    return admit(live, drafted, torch.zeros(size, dtype=torch.int64), (plan.rule,), None if plain else favour).numpy()
