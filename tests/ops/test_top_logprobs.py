"""The best entries of every row are an op with a number: nothing in a graph is an address of this process."""

import ctypes

import llama_dflash  # noqa: F401  before llama_cpp
from llama_dflash import _library


def test_it_is_an_op_with_a_number_and_a_name_of_its_own():
    """A GGML_OP_CUSTOM holds a function's address, which an RPC server would call."""
    ggml = _library.open_library("ggml-base")

    class InitParams(ctypes.Structure):
        _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

    ggml.ggml_init.argtypes, ggml.ggml_init.restype = [InitParams], ctypes.c_void_p
    ggml.ggml_new_tensor_2d.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    ggml.ggml_top_logprobs.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32]
    ggml.ggml_new_tensor_2d.restype = ggml.ggml_top_logprobs.restype = ctypes.c_void_p
    ggml.ggml_op_desc.argtypes, ggml.ggml_op_desc.restype = [ctypes.c_void_p], ctypes.c_char_p
    ggml.ggml_free.argtypes = [ctypes.c_void_p]

    ctx = ggml.ggml_init(InitParams(1 << 20, None, True))
    logits = ggml.ggml_new_tensor_2d(ctx, 0, 100, 3)
    assert ggml.ggml_op_desc(ggml.ggml_top_logprobs(ctx, logits, 5)) == b"TOP_LOGPROBS"
    ggml.ggml_free(ctx)
