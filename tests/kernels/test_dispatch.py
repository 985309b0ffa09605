import threading

import pytest
import torch

from core.errors import EngineError
from kernels import dispatch
from kernels.dispatch import infers_in_triton, interpreted, takes_triton


def test_the_twins_serve_the_cpu_unless_the_kernels_are_interpreted():
    x = torch.zeros(1)
    assert not takes_triton(x)
    with interpreted():
        assert takes_triton(x)
    assert not takes_triton(x)


def test_interpreting_ends_with_its_block_whatever_happens_in_it():
    with pytest.raises(KeyError), interpreted():
        raise KeyError
    assert not takes_triton(torch.zeros(1))


def test_another_thread_is_not_interpreted():
    seen = []
    with interpreted():
        thread = threading.Thread(target=lambda: seen.append(takes_triton(torch.zeros(1))))
        thread.start()
        thread.join()
    assert seen == [False]


def test_layers_keep_the_twins_where_gradients_are_kept():
    with interpreted():
        assert not infers_in_triton(torch.zeros(1))
        with torch.no_grad():
            assert infers_in_triton(torch.zeros(1))
        with torch.inference_mode():
            assert infers_in_triton(torch.zeros(1))


def test_kernels_made_for_a_gpu_cannot_be_interpreted(monkeypatch):
    monkeypatch.setattr(dispatch, "is_interpreter", lambda: False)
    with pytest.raises(EngineError, match="TRITON_INTERPRET"), interpreted():
        pass
