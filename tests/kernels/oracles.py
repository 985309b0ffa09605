"""Brute force in Python floats (float64), row by row: what twins and Triton kernels must agree with.

Written from the definitions alone; slow, for sizes where that does not matter.
"""

import math

import pytest

from core.planning import EarlyStop, FixedLength, Threshold, TopK
from core.tensors import Draft
from core.types import Sampling

# float32 laws lie this close to float64 ones; a uniform nearer than this to a boundary may fall on either side.
TOLERANCE = 2e-5


def softmax(row):
    top = max(row)
    mass = [math.exp(x - top) for x in row]
    total = sum(mass)
    return [m / total for m in mass]


def check_verdict(verdict, logits, draft: Draft, lengths, uniforms):
    """Assert that a verdict obeys the law of rejection sampling, sequence by sequence."""
    rows = iter([softmax(row) for row in logits.double().tolist()])
    width = draft.tokens.shape[1]
    for b, length in enumerate(lengths.tolist()):
        p = [next(rows) for _ in range(length + 1)]
        u = uniforms[b].tolist()
        accepted, next_token = int(verdict.accepted[b]), int(verdict.next_token[b])
        assert 0 <= accepted <= length
        assert int(verdict.verified[b]) == length
        q = [law_of_draft(draft, b, j, len(p[0])) for j in range(length)]
        for j in range(min(accepted + 1, length)):
            x = int(draft.tokens[b, j])
            if j < accepted:
                assert u[j] * q[j][x] < p[j][x] + TOLERANCE, f"sequence {b} kept draft {j} of ratio below its uniform"
            else:
                assert u[j] * q[j][x] >= p[j][x] - TOLERANCE, f"sequence {b} lost draft {j}"
        law = p[accepted]
        if accepted < length:
            residual = [max(s - t, 0.0) for s, t in zip(law, q[accepted], strict=True)]
            law = residual if sum(residual) > TOLERANCE else law
        check_draw(next_token, law, u[width])
        labels = [sum(map(min, s, t)) for s, t in zip(p[:length], q, strict=True)] + [0.0] * (width - length)
        assert verdict.soft_labels[b].tolist() == pytest.approx(labels, abs=TOLERANCE)


def law_of_draft(draft: Draft, b: int, j: int, vocab: int) -> list[float]:
    if bool(draft.is_certain[b, j]):
        return [float(v == int(draft.tokens[b, j])) for v in range(vocab)]
    return softmax(draft.q_logits[b, j].double().tolist())


def check_draw(token, mass, uniform):
    """Assert that `token` is the inverse CDF of `mass` at `uniform`, and has mass."""
    total, below = sum(mass), sum(mass[:token])
    slack = TOLERANCE * total + 1e-12
    assert mass[token] > 0, f"token {token} has no mass"
    assert below - slack <= uniform * total <= below + mass[token] + slack, f"token {token} is not at {uniform}"


def admitted(survival, drafted, group, rules, floor=None, weight=None):
    """Return verify lengths by walking each group's drafts one by one, as the rules are worded."""
    lengths = [0] * len(survival)
    floor, weight = floor or [0] * len(survival), weight or [1.0] * len(survival)
    for index, rule in enumerate(rules):
        members = [b for b in range(len(survival)) if group[b] == index]
        if isinstance(rule, TopK | EarlyStop):
            favoured = isinstance(rule, TopK)
            keys = [
                [
                    math.inf if favoured and j < floor[b] else a * (weight[b] if favoured else 1)
                    for j, a in enumerate(row)
                ]
                for b, row in enumerate(survival)
            ]
            walk_in_order(rule, (survival, keys), drafted, members, lengths)
        for b in members:
            known = next((j for j in range(drafted[b]) if math.isnan(survival[b][j])), drafted[b])
            lengths[b] = max(lengths[b], min(floor[b], known))
        if isinstance(rule, TopK | EarlyStop):
            continue
        for b in members:
            before = 1.0
            for j in range(drafted[b]):
                a = survival[b][j]
                if math.isnan(a) or not passes(rule, j, a, before):
                    break
                lengths[b], before = max(lengths[b], j + 1), a
    return lengths


def passes(rule, j, a, before):
    match rule:
        case FixedLength(length=length):
            return j < length
        case Threshold(value=value, cumulative=True):
            return a >= value
        case Threshold(value=value):
            return a >= value * before
    raise AssertionError(rule)


def walk_in_order(rule, ranked, drafted, members, lengths):
    survival, keys = ranked
    slots = []
    for b in members:
        for j in range(drafted[b]):
            if math.isnan(survival[b][j]):
                break
            slots.append((-keys[b][j], j, b))
    slots = [slot for slot in sorted(slots) if slot[0] < 0]
    if isinstance(rule, TopK):
        count = rule.budget
    else:
        count = stopped_at(rule, [-key for key, _, _ in slots], len(members))
        count = min(next((top for top in rule.tops if top >= count), count), len(rule.step_s) - 1)
    for _, j, b in slots[: max(count, 0)]:
        lengths[b] = j + 1


def stopped_at(rule, values, num_members):
    """Return how many drafts are admitted before expected tokens per second first fail to rise."""
    tokens = float(num_members)
    for count, value in enumerate(values, start=1):
        if count >= len(rule.step_s) or not (tokens + value) / rule.step_s[count] > tokens / rule.step_s[count - 1]:
            return count - 1
        tokens += value
    return len(values)


def processed_law(logits, temperature, top_k, top_p, min_p=0.0):
    """Return one row's law after temperature, top-k, top-p and min-p, ties by token id."""
    order = sorted(range(len(logits)), key=lambda v: (-logits[v], v))
    if temperature == 0:
        return [float(v == order[0]) for v in range(len(logits))]
    kept = order[:top_k] if top_k else order
    mass = dict(zip(kept, softmax([logits[v] / temperature for v in kept]), strict=True))
    if top_p < 1:
        below, nucleus = 0.0, []
        for v in kept:
            if nucleus and below >= top_p:
                break
            nucleus.append(v)
            below += mass[v]
        kept = nucleus
    kept = [v for v in kept if mass[v] >= min_p * mass[order[0]]]
    mass = dict(zip(kept, softmax([logits[v] / temperature for v in kept]), strict=True))
    return [mass.get(v, 0.0) for v in range(len(logits))]


def edited_logits(logits, sampling: Sampling, prompt, output):
    """Return one row's logits after bias, penalties and the ban, counted anew over the whole prefix."""
    row = list(logits)
    for token, bias in sampling.logit_bias:
        row[token] += bias
    for v in set(prompt) | set(output):
        row[v] *= 1 / sampling.repetition_penalty if row[v] > 0 else sampling.repetition_penalty
    for v in set(output):
        row[v] -= sampling.frequency_penalty * output.count(v) + sampling.presence_penalty
    if len(output) < sampling.min_tokens:
        for v in sampling.stop_token_ids:
            row[v] = -math.inf
    return row


def law_after(logits, sampling: Sampling, prompt, output):
    """Return the law of the token after prompt + output."""
    row = edited_logits(logits, sampling, prompt, output)
    return processed_law(row, sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)


def check_coupled(verdict, logits, draft: Draft, lengths, gumbel):
    """Assert that a verdict keeps drafts exactly while they are the tokens that the noise draws."""
    rows = iter(logits.double().tolist())
    for b, length in enumerate(lengths.tolist()):
        drawn = []
        for j in range(length + 1):
            scores = [x + g for x, g in zip(next(rows), gumbel[b, j].double().tolist(), strict=True)]
            drawn.append(scores.index(max(scores)))
        drafted = draft.tokens[b].tolist()[:length]
        accepted = next((j for j in range(length) if drafted[j] != drawn[j]), length)
        assert int(verdict.accepted[b]) == accepted
        assert int(verdict.next_token[b]) == drawn[accepted]
        assert int(verdict.verified[b]) == length
        assert verdict.soft_labels[b].tolist() == [float(j < accepted) for j in range(draft.tokens.shape[1])]
