"""A compiled model is seen wherever it is compiled, and looking keeps no model alive."""

import gc
import weakref

import pytest
import torch
from conftest import make_model

from seka_rag.errors import UnsteerableError
from seka_rag.modes import check_uncompiled

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.compile itself


def compile_itself(model):
    model.compile()


def compile_a_layer(model):
    model.model.layers[1].compile()


def wrap_a_layer(model):
    model.model.layers[1] = torch.compile(model.model.layers[1])


def wrap_the_keys(model):
    attention = model.model.layers[0].self_attn
    attention.k_norm = torch.compile(attention.k_norm)


def replace_a_forward(model):
    layer = model.model.layers[2]
    layer.forward = torch.compile(layer.forward)


@pytest.mark.parametrize(
    "change", [compile_itself, compile_a_layer, wrap_a_layer, wrap_the_keys, replace_a_forward]
)
@pytest.mark.parametrize("looked_before", [False, True])
def test_what_is_compiled_is_refused(change, looked_before):
    model = make_model("qwen3")
    if looked_before:
        check_uncompiled(model)
    change(model)
    for _ in range(2):
        with pytest.raises(UnsteerableError, match="the model is compiled"):
            check_uncompiled(model)


def test_layers_may_come_and_go():
    model = make_model("qwen3")
    check_uncompiled(model)
    model.model.layers.append(make_model("qwen3").model.layers[0])
    check_uncompiled(model)
    model.model.layers[3].compile()
    with pytest.raises(UnsteerableError):
        check_uncompiled(model)
    del model.model.layers[3]
    check_uncompiled(model)


def test_a_model_that_was_looked_at_is_let_go():
    model = make_model("qwen3")
    check_uncompiled(model)
    seen = weakref.ref(model)
    del model
    gc.collect()
    assert seen() is None
