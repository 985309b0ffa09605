"""Train the demo pair's tokenizer: byte-level BPE over the curriculum and the library text.

Digits stand alone (column arithmetic needs that) and the special tokens have the first ids, so the rest is one block.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from training.chatml import CHAT_TEMPLATE, END, END_OF_TEXT, SPECIAL_TOKENS
from training.tasks.catalog import DOMAINS, tasks

VOCAB_SIZE = 4096
# Qwen2's pre-tokenisation: contractions, words, single digits, punctuation, line ends, spaces.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TASKS_PER_DOMAIN = 12_000


def train_tokenizer(
    library: list[str], vocab_size: int = VOCAB_SIZE, tasks_per_domain: int = TASKS_PER_DOMAIN
) -> Tokenizer:
    """Train on library texts and on generated tasks of the training part."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(training_texts(library, tasks_per_domain), trainer)
    return tokenizer


def training_texts(library: list[str], tasks_per_domain: int) -> Iterator[str]:
    """Yield the texts that merges are counted on."""
    yield from library
    for domain in DOMAINS:
        for task in itertools.islice(tasks(domain, 0, "train"), tasks_per_domain):
            yield "\n".join([*(content for _, content in task.messages), task.answer])


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_positions: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    # Not by tokenizer.save, whose error for a full disk is no OSError.
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END_OF_TEXT,
        "bos_token": None,
        "unk_token": None,
        "additional_special_tokens": list(SPECIAL_TOKENS),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
