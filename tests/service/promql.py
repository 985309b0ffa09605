"""What a PromQL expression asks for: its series and their labels, found by their spelling."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

SERIES = re.compile(r"\b((?:vllm:|specd_|http_)\w+)(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\bby \(([^)]*)\)")
LABEL = re.compile(r"(\w+)\s*[=!]")
# What Prometheus itself adds to whatever it scrapes.
ADDED = {"job", "instance"}
# What Grafana puts in place of its variables, so that PromQL's grammar holds.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h"}


def plain(expression: str) -> str:
    """Return an expression as Grafana would send it."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


def asked(expression: str) -> dict[str, set[str]]:
    """Return the series of an expression, each with the labels that it must have; at least one."""
    grouped = {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",")} - {""}
    found = {}
    for name, selectors in SERIES.findall(expression):
        found[name] = found.get(name, set()) | set(LABEL.findall(selectors)) | grouped
    return {name: labels - ADDED for name, labels in found.items()}


def dashboard_expressions(path: Path) -> Iterator[str]:
    """Yield every expression of a Grafana dashboard's panels."""
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]
