"""A device that is not there: tensors that compute on the CPU but count as lying elsewhere.

Whatever makes the host wait for such a tensor is noted, with where in the code it was: a value that is looked at, a
shape that depends on values, a copy to the host, one from it that is not begun ahead of time. To meet a tensor of the
host in one operation is an error, as on a GPU. What it cannot show is Triton's bodies of kernels: in their place the
twins run, at once, over all rows that are somebody's, and count for nothing.
"""

import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

# Any type of device that torch knows without its library.
ELSEWHERE = torch.device("meta")
ROOT = Path(__file__).parents[2]
aten = torch.ops.aten
LOOKS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
SHAPED_BY_VALUES = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default, aten.bincount.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class Elsewhere(torch.Tensor):
    """A tensor on the pretended device; `here` is where its numbers really are."""

    @staticmethod
    def __new__(cls, here):
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, here.stride(), here.storage_offset(), dtype=here.dtype, device=ELSEWHERE
        )
        made.here = here
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, arguments=(), named=None):
        return run(func, arguments, named or {})

    def __repr__(self):
        return f"Elsewhere({self.here!r})"


class Device(TorchDispatchMode):
    """While it is entered, the pretended device exists; waits are the places at which the host waited for it.

    tape  what is done on it while work is captured (tests/engine/pretend_graphs.py), None elsewhere
    """

    def __init__(self):
        super().__init__()
        self.waits = Counter()
        self.tape = None

    def do(self, operation):
        """Do something to numbers of the device, and note it if it is captured; returns what comes out."""
        done = operation()
        if self.tape is not None:
            self.tape.append((operation, done))
        return done

    def __torch_dispatch__(self, func, types, arguments=(), named=None):
        return run(func, arguments, named or {})


CURRENT = []


def run(func, arguments, named):
    device = CURRENT[-1]
    named = dict(named)
    tensors = [each for each in _flat((arguments, named)) if isinstance(each, torch.Tensor)]
    away = [each for each in tensors if isinstance(each, Elsewhere)]
    wanted = named.get("device")
    if func is aten._to_copy.default and wanted is not None:
        return _copied(func, arguments, named, away, wanted, device)
    if func is aten.copy_.default and away:
        return _copied_into(arguments, named, device)
    if wanted is not None and torch.device(wanted).type == ELSEWHERE.type:
        named["device"] = torch.device("cpu")
        return _away(device.do(lambda: func(*arguments, **named)))
    if not away:
        return func(*arguments, **named)
    _check(func, arguments, named, tensors)
    if wanted is not None:
        named["device"] = torch.device("cpu")
    here, told = _here(arguments), _here(named)
    done = device.do(lambda: func(*here, **told))
    if func._schema.is_mutable and any(a.alias_info and a.alias_info.is_write for a in func._schema.arguments[:1]):
        return arguments[0]
    return done if func in LOOKS else _away(done)


def _copied(func, arguments, named, away, wanted, device):
    goes_away = torch.device(wanted).type == ELSEWHERE.type
    if away and not goes_away:
        device.waits[_where()] += 1
    if not away and goes_away and not named.get("non_blocking"):
        device.waits[_where()] += 1
    if not away:
        refuse_in_capture(device)
    named["device"] = torch.device("cpu")
    # A copy that is only begun must not be the host's own numbers.
    here = _here(arguments)
    done = device.do(lambda: func(*here, **named))
    return _away(done) if goes_away else done


def _copied_into(arguments, named, device):
    into, source = arguments[:2]
    is_blocking = not (len(arguments) > 2 and arguments[2]) and not named.get("non_blocking")
    if not isinstance(into, Elsewhere) or (not isinstance(source, Elsewhere) and source.dim() and is_blocking):
        device.waits[_where()] += 1
    if not isinstance(source, Elsewhere) and source.dim():
        refuse_in_capture(device)
    target, source = _here(into), _here(source)
    device.do(lambda: target.copy_(source))
    return into


def refuse_in_capture(device):
    """Raise where numbers of the host go up: captured, the copy would read the same place of the host for ever."""
    if device.tape is not None:
        raise RuntimeError("captured work copies from the host")


def _check(func, arguments, named, tensors):
    """Note what waits, and refuse what meets a tensor of the host, but for single numbers."""
    device = CURRENT[-1]
    if func in LOOKS or func in SHAPED_BY_VALUES:
        device.waits[_where()] += 1
    if func is aten.repeat_interleave.Tensor and named.get("output_size") is None:
        device.waits[_where()] += 1
    indices = []
    if func in INDEXED:
        indices = [each for each in arguments[1] if each is not None]
        if any(each.dtype in (torch.bool, torch.uint8) or not isinstance(each, Elsewhere) for each in indices):
            device.waits[_where()] += 1
    # torch sends indices of the host along itself; packed weights, which only the CPU has, are taken for the device's.
    known = {id(each) for each in (*indices, *(t for t in tensors if t.layout is torch._mkldnn))}
    strangers = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() and id(t) not in known]
    if strangers:
        raise RuntimeError(f"{func} meets a tensor of the host, {list(strangers[0].shape)}")


def _where():
    """Return the innermost line of ours that led here."""
    frames = [each for each in traceback.extract_stack() if each.filename.startswith(str(ROOT))]
    ours = [each for each in frames if "/tests/" not in each.filename and "/site-packages/" not in each.filename]
    if not ours:
        return "a test"
    return f"{Path(ours[-1].filename).relative_to(ROOT)}: {ours[-1].line}"


def _flat(tree):
    found = []
    tree_map(found.append, tree)
    return found


def _here(tree):
    return tree_map_only(Elsewhere, lambda each: each.here, tree)


def _away(tree):
    return tree_map_only(torch.Tensor, Elsewhere, tree)


@contextmanager
def pretended():
    """Let the device exist inside; yields it."""
    device = Device()
    CURRENT.append(device)
    try:
        with device:
            yield device
    finally:
        CURRENT.pop()


def move(network):
    """Put a network's weights and buffers on the device, in place; returns it."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(Elsewhere(parameter.detach()), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Elsewhere(buffer)
    return network


def as_kernel(twin, num_rows=None):
    """Return a twin that runs like a kernel: nothing in it counts as waiting.

    num_rows tells from the twin's arguments how many of the first one's rows are somebody's; the rest comes out as is.
    """

    def launched(*arguments, **named):
        if not any(isinstance(each, Elsewhere) for each in _flat_deep((arguments, named))):
            return twin(*arguments, **named)
        here, told = _deep_here(arguments), _deep_here(named)

        def run_twin():
            rows = here if num_rows is None else (here[0][: num_rows(*here)], *here[1:])
            return twin(*rows, **told)

        return _deep_away(CURRENT[-1].do(run_twin))

    return launched


def _deep(tree, kind, change):
    """Change tensors of a kind wherever they are, in our frozen nouns too."""
    if isinstance(tree, kind):
        return change(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(_deep(each, kind, change) for each in tree) if not hasattr(tree, "_fields") else tree
    fields = getattr(type(tree), "__dataclass_fields__", None)
    if fields:
        return type(tree)(**{name: _deep(getattr(tree, name), kind, change) for name in fields})
    return tree


def _flat_deep(tree):
    found = []
    _deep(tree, torch.Tensor, lambda each: found.append(each) or each)
    _deep(list(tree[1].values()), torch.Tensor, lambda each: found.append(each) or each)
    return found


def _deep_here(tree):
    if isinstance(tree, dict):
        return {name: _deep_here(each) for name, each in tree.items()}
    return _deep(tree, Elsewhere, lambda each: each.here)


def _deep_away(tree):
    return _deep(tree, torch.Tensor, lambda each: each if isinstance(each, Elsewhere) else Elsewhere(each))
