"""Write held-out prompts of every domain as JSON, for benchmarks that must not know the curriculum.

python -m training.held_out_prompts models/demo/target bench/prompts/demo.json
"""

import argparse
import itertools
from pathlib import Path

from tokenizers import Tokenizer

from training.chatml import render_prompt
from training.corpus import read_corpus
from training.onpolicy import MAX_NEW_TOKENS, SOURCES, prompt_source
from training.packing import encode_library
from training.record import write_json
from training.tasks.catalog import DOMAINS, tasks

SEED = 7


def held_out_prompts(tokenizer: Tokenizer, count: int) -> dict[str, dict[str, object]]:
    """Return per source `count` prompts as text, and how long an answer may be."""
    prompts = {}
    for source in SOURCES:
        if source in DOMAINS:
            texts = [render_prompt(task.messages) for task in itertools.islice(tasks(source, SEED, "held_out"), count)]
        else:
            files = encode_library(tokenizer, list(read_corpus().held_out.values()))
            draw = prompt_source(tokenizer, source, files, "held_out", SEED, (1.0,))
            texts = [tokenizer.decode(draw().ids) for _ in range(count)]
        prompts[source] = {"max_tokens": MAX_NEW_TOKENS[source], "prompts": texts}
    return prompts


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Write held-out prompts of every domain.")
    parser.add_argument("target", type=Path, help="folder with the tokenizer")
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=32)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(arguments.target / "tokenizer.json"))
    write_json(arguments.output, held_out_prompts(tokenizer, arguments.count))


if __name__ == "__main__":
    main()
