"""What every policy is made of: plans for whole groups. The protocol itself is core.planning.Policy.

A policy sees neither drafters nor models, only a StepView of facts fixed before this step's drafts exist.
"""

import sys

import numpy as np

from core.planning import FixedLength, Plan, Rule, StepView

NOTHING = FixedLength(0)
# Steps that a plan stands for which nothing will ever change.
FOR_GOOD = sys.maxsize


def draft_all(view: StepView, rule: Rule) -> Plan:
    """Draft as much as each sequence may, keep every drafter state up to date, and admit by `rule`."""
    return Plan(view.gamma_max.copy(), rule, np.ones(len(view.slots), dtype=np.bool_))


def draft_nothing(view: StepView) -> Plan:
    """Decode plainly; drafter states are not kept up, so nothing of speculation is paid for."""
    return decode_plainly(len(view.slots))


def decode_plainly(size: int, stands: int = 1) -> Plan:
    """Return the plan of that many sequences that do not speculate, for `stands` steps."""
    return Plan(np.zeros(size, dtype=np.int32), NOTHING, np.zeros(size, dtype=np.bool_), stands=stands)
