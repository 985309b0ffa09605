"""The layer rules, as data and as a checker over source text.

A folder imports only from layers below its own; siblings never see each other. The checker reads one module's
source and yields what breaks a rule, so that it can be tried on planted violations.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

LAYERS = {
    "core": 0,
    "kernels": 1,
    "client": 1,
    "models": 2,
    "drafters": 3,
    "policies": 3,
    "engine": 4,
    "service": 5,
    "training": 5,
    "bench": 5,
    "cli": 6,
}

# A package of others -> the folders or modules that alone may import it.
CONFINED = {
    "triton": ("kernels",),
    "redis": ("service", "client"),
    "aiohttp": ("service", "client"),
    "llguidance": ("models",),
}

# Folders and modules that must not load torch, so that the gateway needs none and the rest is testable anywhere.
TORCH_FREE = (
    *("core", "client", "policies", "engine.scheduler", "engine.blocks"),
    *("models.formats", "models.config_json", "models.drafter_kind", "models.folders", "models.hub"),
    *("models.grammar", "models.constraint", "models.token_masks"),
)
MAY_USE_TORCH = ("core.tensors", "models.formats.checkpoint")

# Reading a file must never run code from it.
UNSAFE_CALLS = {"eval", "exec", "torch.load", "yaml.load", "pickle.load", "pickle.loads", "marshal.loads"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
# The demo's checker of generated code runs it in a process of its own, without rights.
MAY_RUN_CODE = ("training.tasks.sandbox",)


def module_names() -> dict[str, Path]:
    """Return every module of ours by name."""
    names = {}
    for package in LAYERS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def violations(module: str, source: str) -> Iterator[str]:
    """Yield a sentence for each rule that the module breaks."""
    tree = ast.parse(source)
    yield from _edges(module, tree)
    if module != "core.registry":
        yield from _late_imports(module, tree)
    yield from _unsafe(module, tree)


def _edges(module: str, tree: ast.AST) -> Iterator[str]:
    package = module.partition(".")[0]
    for line, name in _imports(tree):
        top = name.partition(".")[0]
        where = f"{module}:{line} imports {name}"
        if top in LAYERS and top != package and LAYERS[top] >= LAYERS[package]:
            yield f"{where}: layer {LAYERS[package]} must not see layer {LAYERS[top]}"
        if top in CONFINED and package not in CONFINED[top]:
            yield f"{where}: {top} belongs to {', '.join(CONFINED[top])}"
        if name.startswith(".") or not name:
            yield f"{where}: imports are absolute"
        torch_like = top == "torch" or (name in MAY_USE_TORCH and module not in MAY_USE_TORCH)
        if torch_like and _within(module, TORCH_FREE) and module not in MAY_USE_TORCH:
            yield f"{where}: {module} must not need torch"


def _late_imports(module: str, tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Import | ast.ImportFrom) or _called(inner) in (
                    "__import__",
                    "import_module",
                    "importlib.import_module",
                ):
                    yield f"{module}:{inner.lineno} imports inside a function"
        if isinstance(node, ast.Name) and node.id == "TYPE_CHECKING":
            yield f"{module}:{node.lineno} uses TYPE_CHECKING: a cycle is a design error"
        if isinstance(node, ast.Attribute) and node.attr == "TYPE_CHECKING":
            yield f"{module}:{node.lineno} uses TYPE_CHECKING: a cycle is a design error"


def _unsafe(module: str, tree: ast.AST) -> Iterator[str]:
    if module in MAY_RUN_CODE:
        return
    for line, name in _imports(tree):
        if name.partition(".")[0] in UNSAFE_MODULES:
            yield f"{module}:{line} imports {name}: its files can run code"
    for node in ast.walk(tree):
        if (name := _called(node)) in UNSAFE_CALLS:
            yield f"{module}:{node.lineno} calls {name}: its input can run code"


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of each import; `from a import b` counts as a.b where that may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names if base in LAYERS)


def _called(node: ast.AST) -> str:
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def _within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)
