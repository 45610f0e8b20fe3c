"""A compiled step as one CUDA graph, where that is faster: its kernels are started all at once.

Inductor's own graphs (`triton.cudagraphs`) copy whatever they aren't told to lie still, here all
parameters, which make_fx has made inputs like others; and take back outputs at the next step, with
gradients that an optimiser may have kept.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Call = Callable[..., Sequence[Any]]
ROUNDS = 20


def captured(call: Call, given: Sequence[Tensor]) -> tuple[Callable[[], None], Sequence[Any]]:
    """(replay, outputs): replay computes `call(*given)` anew, from what lies in the memory of
    `given` then, into that of the outputs.

    Raises RuntimeError for what can't be captured, as a step that waits for the device.
    """
    with torch.cuda.device(given[0].device):
        side = torch.cuda.Stream()  # a first call on it gets what a library keeps for each stream
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call(*given)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = call(*given)
    return graph.replay, outputs


def graphed(call: Call, params: Sequence[Tensor], batch: Sequence[Tensor]) -> Call:
    """`call(*params, *batch)` as one graph, which reads the parameters where they lie.

    Batches are copied into a place of their own. Outputs are copied out: an optimiser may keep
    gradients, and the next step writes to where they lay. Parameters that have moved elsewhere
    since are computed with by `call`, without the graph.
    """
    place = [tensor.clone() for tensor in batch]
    replay, outputs = captured(call, [*params, *place])

    def step(*given: Tensor) -> Sequence[Any]:
        if any(p.data_ptr() != q.data_ptr() for p, q in zip(params, given, strict=False)):
            return call(*given)
        for own, tensor in zip(place, given[len(params) :], strict=True):
            own.copy_(tensor)
        replay()
        return [out.clone() if isinstance(out, Tensor) else out for out in outputs]

    return step


def faster(call: Call, params: Sequence[Tensor], batch: Sequence[Tensor]) -> tuple[Call, str]:
    """`call`, or its graph where that takes less time here; and what was found."""
    try:
        graph = graphed(call, params, batch)
    except RuntimeError as error:
        return call, f"no CUDA graph: {str(error).splitlines()[0]}"
    plain, whole = (seconds(step, *params, *batch) for step in (call, graph))
    found = f"{whole * 1e6:.0f} us a step as a CUDA graph, {plain * 1e6:.0f} without"
    return (graph if whole < plain else call), found


def seconds(step: Call, *given: Tensor) -> float:
    """Of one step among many in a row, after a first one."""
    step(*given)
    torch.cuda.synchronize(given[0].device)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        step(*given)
    torch.cuda.synchronize(given[0].device)
    return (time.perf_counter() - start) / ROUNDS
