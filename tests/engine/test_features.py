"""Every sampling feature, with every kind of speculation, under both verifiers: the table of docs/sampling.md.

Features that shape the law are held to it by enumeration: the first tokens of many requests are compared with the law
computed here from the definitions, in float64, prefix by prefix (chi-square, alpha 1e-4; 1500 draws find a total
variation of .15 with power above .99). The others are compared with what plain decoding says.
"""

import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import bench
from core.random import derive_nonce
from core.statistics import chi_square_p_value
from core.types import FinishReason, Request, Sampling
from drafters.ngram import NGram
from engine.engine import Engine
from engine.shape import EngineShape
from equality import dense_causal
from every_other import every_other
from models.folders import target_folder
from models.tokenizer import Tokenizer
from policies.fixed import Fixed, Off
from toys import run, tiny_dspark, tiny_target

VOCABULARY, LENGTH, NUM_DRAWS, ALPHA = 5, 3, 1500, 1e-4
WIDE = EngineShape(max_num_seqs=128, max_num_batched_tokens=1408, kv_cache_tokens=4096, block_size=4)
# Tokens that come twice, once and never; it repeats itself, so that n-grams of it are found.
PROMPT = (1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2)

LAWS = {
    "temperature": {"temperature": 0.6},
    "top_k": {"temperature": 1.3, "top_k": 3},
    "top_p": {"temperature": 1.0, "top_p": 0.8},
    "min_p": {"temperature": 1.0, "min_p": 0.4},
    "logit_bias": {"logit_bias": ((0, 1.5), (4, -100.0))},
    "presence_penalty": {"presence_penalty": 1.2},
    "frequency_penalty": {"frequency_penalty": -0.9},
    "repetition_penalty": {"repetition_penalty": 0.4},
    "min_tokens": {"min_tokens": 2, "stop_token_ids": (1, 3)},
}
EXACT = ["max_tokens", "ignore_eos", "stop_token_ids", "stop", "seed", "n", "logprobs"]
SPECULATION = ["off", "dspark", "ngram"]
VERIFIERS = ["rejection", "coupled"]


@pytest.fixture(scope="module")
def target():
    return tiny_target(VOCABULARY, seed=5, sharpness=0.25)


def make(target, speculation, eos_ids=(), tokenizer=None):
    drafters = {"dspark": tiny_dspark(target, block_size=3), "ngram": NGram(max_drafts=3)}
    chosen = {speculation: drafters[speculation]} if speculation != "off" else {}
    policy = (lambda: Fixed(3)) if chosen else Off
    return Engine(target, chosen, {"only": policy}, WIDE, eos_ids, tokenizer)


def asking(verifier, index, prompt=PROMPT, n_index=0, **sampling):
    nonce = derive_nonce(b"features", index, 0)
    key = nonce if verifier == "coupled" else None
    return Request(str(index), prompt, Sampling(**sampling), nonce, n_index=n_index, coupled_key=key)


# --- Features that shape the law ---------------------------------------------------------------------------------


def law_after(target, output, sampling):
    """The law of the next token after PROMPT and `output`, from the definitions."""
    ids = torch.tensor((*PROMPT, *output))
    hidden, _ = target(ids, torch.arange(len(ids)), dense_causal)
    logits = target.logits(hidden[-1:])[0].double().tolist()
    for token, bias in sampling.logit_bias:
        logits[token] += bias
    for token in range(VOCABULARY):
        count = output.count(token)
        if count or token in PROMPT:
            factor = sampling.repetition_penalty
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
        logits[token] -= count * sampling.frequency_penalty + bool(count) * sampling.presence_penalty
        if len(output) < sampling.min_tokens and token in sampling.stop_token_ids:
            logits[token] = -math.inf
    law = np.exp(np.array(logits) / sampling.temperature)
    law /= law.sum()
    order = np.argsort(-law, kind="stable")
    before = np.concatenate(([0.0], np.cumsum(law[order])[:-1]))
    rank = np.arange(VOCABULARY)
    if sampling.top_k:
        law[order[rank >= sampling.top_k]] = 0
    law[order[before >= sampling.top_p]] = 0
    law[law < sampling.min_p * law.max()] = 0
    return law / law.sum()


def law_of_texts(target, sampling):
    """Probabilities by text: as long as LENGTH, or shorter where it was stopped."""
    texts = {(): 1.0}
    for _ in range(LENGTH):
        grown = {}
        for text, chance in texts.items():
            if text and text[-1] in sampling.stop_token_ids:
                grown[text] = chance
                continue
            for token, p in enumerate(law_after(target, text, sampling)):
                if p > 0:
                    grown[*text, token] = chance * p
        texts = grown
    return texts


@pytest.mark.parametrize(("feature", "speculation", "verifier"), every_other([*LAWS], SPECULATION, VERIFIERS))
def test_the_law_is_what_was_asked_for(target, feature, speculation, verifier):
    options = LAWS[feature] | {"max_tokens": LENGTH + 1}
    engine = make(target, speculation)
    texts = law_of_texts(target, Sampling(**options))
    counts = dict.fromkeys(texts, 0)
    for tokens in run(engine, [asking(verifier, i, **options) for i in range(NUM_DRAWS)]).values():
        counts[tuple(tokens[:LENGTH])] += 1
    assert chi_square_p_value(np.array(list(counts.values())), np.array(list(texts.values()))) > ALPHA
    if speculation != "off":
        assert 0 < engine.stats.accepted < engine.stats.verified


@pytest.mark.parametrize("feature", LAWS)
def test_a_feature_that_was_ignored_would_be_noticed(target, feature):
    """The power of the cells above: draws without the feature do not pass for draws with it."""
    options = {"stop_token_ids": LAWS[feature].get("stop_token_ids", ())}
    engine = make(target, "off")
    texts = law_of_texts(target, Sampling(**LAWS[feature]))
    counts, unheard = dict.fromkeys(texts, 0), 0
    for tokens in run(engine, [asking("rejection", i, max_tokens=LENGTH + 1, **options) for i in range(1500)]).values():
        if tuple(tokens[:LENGTH]) in counts:
            counts[tuple(tokens[:LENGTH])] += 1
        else:
            unheard += 1
    drawn = np.array(list(counts.values()))
    assert unheard or chi_square_p_value(drawn, np.array(list(texts.values()))) < ALPHA


# --- Features with one right answer ------------------------------------------------------------------------------


def texts(target, speculation, verifier, eos_ids=(), **sampling):
    """Six answers each to its own prompt, greedy under `rejection` and seeded under `coupled`."""
    law = {"temperature": 0.0} if verifier == "rejection" else {"temperature": 1.0}
    prompts = [PROMPT[i:] for i in range(6)]
    engine = make(target, speculation, eos_ids)
    found = run(engine, [asking(verifier, i, prompt, **law | sampling) for i, prompt in enumerate(prompts)])
    assert bool(engine.stats.drafted) == (speculation != "off")
    return found


CELLS = list(itertools.product(SPECULATION, VERIFIERS))


@pytest.mark.parametrize(("speculation", "verifier"), CELLS)
def test_max_tokens_ends_the_answer(target, speculation, verifier):
    plain = texts(target, "off", verifier, max_tokens=40)
    assert texts(target, speculation, verifier, max_tokens=23) == {name: ids[:23] for name, ids in plain.items()}


@pytest.mark.parametrize(("speculation", "verifier"), CELLS)
def test_stop_token_ids_and_eos_end_the_answer_and_ignore_eos_does_not(target, speculation, verifier):
    plain = texts(target, "off", verifier, max_tokens=40)
    # The token that comes last for the first time, so that there is something to draft before it.
    last = max(range(VOCABULARY), key=lambda t: min((ids.index(t) for ids in plain.values() if t in ids), default=-1))
    cut = {name: ids[: ids.index(last) + 1] if last in ids else ids for name, ids in plain.items()}
    assert cut != plain
    assert texts(target, speculation, verifier, max_tokens=40, stop_token_ids=(last,)) == cut
    assert texts(target, speculation, verifier, eos_ids=(last,), max_tokens=40) == cut
    assert texts(target, speculation, verifier, eos_ids=(last,), max_tokens=40, ignore_eos=True) == plain


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize(("speculation", "verifier"), CELLS)
def test_stop_texts_end_the_answer_at_the_token_that_completes_them(speculation, verifier, include):
    # Of the demo's tokens the first few are silent, the next are letters.
    target, tokenizer = tiny_target(64, seed=5, sharpness=0.25), Tokenizer(target_folder("demo"))
    law = {"temperature": 0.0} if verifier == "rejection" else {"temperature": 1.0, "seed": 11}
    engine = make(target, speculation, tokenizer=tokenizer)
    [plain] = engine.generate([PROMPT], Sampling(max_tokens=60, **law))
    stop = plain.text[len(plain.text) // 2 :][:3]
    [done] = engine.generate(
        [PROMPT], Sampling(max_tokens=60, stop=("never", stop), include_stop_str_in_output=include, **law)
    )
    end = plain.text.index(stop)
    assert done.text == plain.text[: end + len(stop) * include]
    assert done.finish_reason is FinishReason.STOP
    assert done.token_ids == plain.token_ids[: len(done.token_ids)]
    assert tokenizer.decode(done.token_ids).endswith(stop)
    assert not engine.has_work


@pytest.mark.parametrize("speculation", SPECULATION)
def test_a_seed_gives_one_text_whatever_the_drafter_and_nonce(target, speculation):
    plain = texts(target, "off", "coupled", max_tokens=60)
    assert texts(target, speculation, "coupled", max_tokens=60) == plain


@pytest.mark.parametrize(("speculation", "verifier"), CELLS)
def test_children_of_one_job_differ_and_each_is_its_own_again(target, speculation, verifier):
    """n > 1 is n requests: under `rejection` each has a nonce, under `coupled` all have the key and an index each."""

    def children():
        requests = []
        for n_index in range(4):
            key = 5 if verifier == "coupled" else None
            nonce = derive_nonce(b"job", n_index, 0)
            requests.append(Request(str(n_index), PROMPT, Sampling(max_tokens=40), nonce, (), n_index, key))
        engine = make(target, speculation)
        found = run(engine, requests)
        assert engine.scheduler.prefix_queries == 4 * len(PROMPT)
        return found

    first = children()
    assert len({tuple(ids) for ids in first.values()}) == 4
    assert children() == first


@pytest.mark.parametrize(("speculation", "verifier"), CELLS)
def test_logprobs_are_those_of_the_raw_law_at_every_token(target, speculation, verifier):
    law = {"temperature": 0.0} if verifier == "rejection" else {"temperature": 1.5, "top_k": 3, "seed": 3}
    engine = make(target, speculation)
    [done] = engine.generate([PROMPT], Sampling(max_tokens=30, logprobs=2, frequency_penalty=0.5, **law))
    assert len(done.logprobs) == len(done.token_ids) == 30
    ids = torch.tensor((*PROMPT, *done.token_ids))
    hidden, _ = target(ids, torch.arange(len(ids)), dense_causal)
    raw = target.logits(hidden).double().log_softmax(-1)[len(PROMPT) - 1 : -1]
    for token, entry, row in zip(done.token_ids, done.logprobs, raw, strict=True):
        assert entry.logprob == pytest.approx(float(row[token]), abs=1e-4)
        assert entry.rank == int((row > row[token]).sum()) + 1
        top = row.topk(2)
        assert list(entry.top_ids) == top.indices.tolist()
        assert list(entry.top_logprobs) == pytest.approx(top.values.tolist(), abs=1e-4)


# --- The table ---------------------------------------------------------------------------------------------------


def test_the_table_in_the_docs_names_every_feature_and_every_cell():
    text = (Path(bench.__file__).parents[1] / "docs" / "sampling.md").read_text(encoding="utf-8")
    table = text.partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)`.*?\|(.*)\|$", table, re.MULTILINE))
    # The laws of grammars are tested in test_grammars.py.
    told_elsewhere = {"include_stop_str_in_output", "top_logprobs", "grammar"}
    assert set(rows) - told_elsewhere == {*LAWS, *EXACT}
    in_type = set(Sampling.__struct_fields__) - told_elsewhere
    assert in_type <= {*LAWS, *EXACT}
    for cells in rows.values():
        assert cells.count("yes") == len(SPECULATION) * len(VERIFIERS)
