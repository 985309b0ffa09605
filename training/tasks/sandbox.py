"""Run an untrusted function in a process of its own: no imports, few builtins and methods, hard limits.

The text is first refused by its syntax tree, then runs under `python -I -S` with an empty environment, with limits
on processor time, memory, files and processes that it cannot raise, and a wall-clock timeout.
"""

import ast
import json
import subprocess
import sys
import tempfile

TIMEOUT_S = 5.0
ALLOWED_NAMES = (
    "abs",
    "all",
    "any",
    "bool",
    "dict",
    "enumerate",
    "float",
    "int",
    "len",
    "list",
    "map",
    "filter",
    "max",
    "min",
    "range",
    "repr",
    "reversed",
    "round",
    "set",
    "sorted",
    "str",
    "sum",
    "tuple",
    "zip",
)
ALLOWED_METHODS = (
    "add",
    "append",
    "capitalize",
    "count",
    "endswith",
    "extend",
    "get",
    "index",
    "insert",
    "isalpha",
    "isdigit",
    "items",
    "join",
    "keys",
    "lower",
    "pop",
    "remove",
    "replace",
    "reverse",
    "sort",
    "split",
    "startswith",
    "strip",
    "title",
    "upper",
    "values",
)
REFUSED_NODES = (ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal, ast.ClassDef, ast.AsyncFunctionDef, ast.Try)
HARNESS = """
import builtins, json, resource, sys
job = json.loads(sys.stdin.read())
for limit, value in ((resource.RLIMIT_CPU, 2), (resource.RLIMIT_AS, 1 << 29), (resource.RLIMIT_FSIZE, 0),
                     (resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(limit, (value, value))
names = {"__builtins__": {name: getattr(builtins, name) for name in job["allowed"]}}
exec(compile(job["source"], "answer", "exec"), names)
values = []
for call in job["calls"]:
    values.append(repr(eval(compile(call, "call", "eval"), names))[:10000])
sys.stdout.write(json.dumps(values))
"""


def run_calls(source: str, calls: list[str]) -> list[str] | None:
    """Define untrusted functions and return the repr of each trusted call; None if refused, failed or too slow."""
    if not is_plain(source):
        return None
    job = json.dumps({"source": source, "calls": calls, "allowed": ALLOWED_NAMES})
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", "-c", HARNESS],
                input=job,
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
                env={},
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            return None
    if done.returncode != 0:
        return None
    values: list[str] = json.loads(done.stdout)
    return values


def is_plain(source: str) -> bool:
    """Tell whether a text is only function definitions that use nothing but the allowed methods."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not all(isinstance(node, ast.FunctionDef) for node in tree.body):
        return False
    for node in ast.walk(tree):
        if isinstance(node, REFUSED_NODES):
            return False
        if isinstance(node, ast.Attribute) and node.attr not in ALLOWED_METHODS:
            return False
        if isinstance(node, ast.Name) and node.id.startswith("__"):
            return False
        if isinstance(node, ast.FunctionDef) and (node.decorator_list or node.returns):
            return False
    return True
