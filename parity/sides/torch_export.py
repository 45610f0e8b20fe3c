"""A Torch model's forward pass as an ONNX file, and back."""

import contextlib
import io
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

NEEDS = ("onnx", "onnxscript")


def onnx_lacks() -> str:
    """What is missing to write ONNX; empty if nothing is."""
    return ", ".join(name for name in NEEDS if find_spec(name) is None)


def exported_onnx(model: torch.nn.Module, inputs: int) -> bytes:
    """model(X), X float32 [batch, inputs] of any batch, with its weights."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with quiet, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # Torch's own exporter warns of itself
        program = torch.onnx.export(
            model.eval(),
            (torch.zeros(3, inputs),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["X"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def loaded_onnx(content: bytes) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """(what runs it, the function): ONNX Runtime on the CPU, or ONNX's own slow evaluator."""
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return "onnxruntime", lambda X: session.run(None, {"X": X})[0]
    from onnx.reference import ReferenceEvaluator

    evaluator: Any = ReferenceEvaluator(content)
    return "onnx's evaluator", lambda X: evaluator.run(None, {"X": X})[0]
