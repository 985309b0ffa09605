"""The demo pair's engine of one source tree: bench/step_before.py runs this file with the tree as its folder.

    python -P bench/stepped_tree.py MODE BATCH

It calls only what every version of the engine has had. Once it has said "ready", each line that it reads is answered by
one with the seconds, the steps and the tokens of a batch of answers.
"""

import logging
import sys
import time
from typing import Any

import structlog
import torch

from core.config import FixedSettings, NoDrafterSettings, OffSettings, Settings
from core.types import Sampling
from engine.build import build_engine

MODES = {
    "off": Settings(drafter=NoDrafterSettings(), policy=OffSettings()),
    "fixed": Settings(policy=FixedSettings()),
}
SAMPLING = Sampling(max_tokens=64, temperature=1.0, seed=1, ignore_eos=True)


def main() -> None:
    """Answer until the input ends."""
    mode, batch = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(1)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    engine = build_engine(MODES[mode])
    prompts = [
        f"<|im_start|>user\nWhat is {a} + {a + 7}?<|im_end|>\n<|im_start|>assistant\n" for a in range(11, 11 + batch)
    ]
    step, num_steps = engine.step, 0

    def counted() -> Any:
        nonlocal num_steps
        num_steps += 1
        return step()

    engine.step = counted  # type: ignore[method-assign, assignment]
    engine.generate(prompts, SAMPLING)
    print("ready", flush=True)
    for _ in sys.stdin:
        num_steps, started = 0, time.perf_counter()
        answers = engine.generate(prompts, SAMPLING)
        seconds = time.perf_counter() - started
        print(seconds, num_steps, sum(len(answer.token_ids) for answer in answers), flush=True)


if __name__ == "__main__":
    main()
