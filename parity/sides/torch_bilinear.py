"""The products that Torch dispatches, each as a function of other operands."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.bilinear import Attention, Bilinear, Operand, Products

Function = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Case = tuple[str, torch.Tensor, tuple[int, ...], torch.Tensor, tuple[int, ...], Function]

# {operation: (place of the first operand, axes that each keeps)}
MATRICES = {
    "mm": (0, (0,), (1,)),
    "addmm": (1, (0,), (1,)),
    "bmm": (0, (0, 1), (0, 2)),
    "baddbmm": (1, (0, 1), (0, 2)),
    "mv": (0, (0,), ()),
    "addmv": (1, (0,), ()),
    "dot": (0, (), ()),
}
# Products that no operand of theirs shows alone.
OPAQUE = ("rnn", "lstm", "gru", "mkldnn_linear", "_scaled_dot", "_flash_attention",
          "_efficient_attention", "_trilinear", "cudnn_attention", "_addmm_activation")  # fmt: skip
# They add by atomic operations on a GPU. Source: the list at torch.use_deterministic_algorithms.
UNORDERED = {
    "index_add", "index_add_", "index_put", "index_put_", "_index_put_impl_", "scatter_add",
    "scatter_add_", "scatter_reduce", "put_", "embedding_dense_backward", "_embedding_bag",
    "bincount", "_embedding_bag_dense_backward", "histc", "kthvalue", "median",
    "grid_sampler_2d_backward",
    "upsample_bilinear2d_backward", "upsample_bicubic2d_backward", "upsample_nearest2d_backward",
    "adaptive_max_pool2d_backward", "_adaptive_avg_pool2d_backward", "avg_pool3d_backward",
    "max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward", "fractional_max_pool2d",
    "reflection_pad2d_backward", "replication_pad2d_backward", "nll_loss2d_forward",
    "_ctc_loss_backward", "cumsum",
}  # fmt: skip


class Recorded(TorchDispatchMode):
    """While it lasts, keeps every kind of product, and what adds in no order."""

    def __init__(self, settings: Callable[[], AbstractContextManager]) -> None:
        """settings: under which the side computes."""
        super().__init__()
        self._settings = settings
        self._bilinear: dict[Any, Bilinear] = {}
        self._attention: dict[Any, Attention] = {}
        self._unknown: dict[str, None] = {}
        self._unordered: dict[str, None] = {}

    def products(self) -> Products:
        found = tuple(self._bilinear.values()), tuple(self._attention.values())
        return Products(*found, tuple(self._unknown), tuple(self._unordered))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, name = func(*args, **kwargs), func.overloadpacket.__name__
        if name in UNORDERED and not (name.startswith("index_put") and not _adds(args, kwargs)):
            self._unordered[f"aten.{name}"] = None
        if name.startswith("_scaled_dot") and "backward" not in name:
            self._attend(func, name, args, kwargs)
        elif any(part in name for part in OPAQUE):
            self._unknown[f"aten.{name}"] = None
        for case in _cases(func, name, args):
            self._keep(*case)
        return out

    def _keep(
        self,
        name: str,
        left: torch.Tensor,
        kept_left: tuple[int, ...],
        right: torch.Tensor,
        kept_right: tuple[int, ...],
        function: Function,
    ) -> None:
        shapes = tuple(left.shape), tuple(right.shape)
        key = name, shapes, left.stride(), right.stride(), left.dtype, right.dtype
        if key in self._bilinear or not left.is_floating_point() or left.dtype == torch.float64:
            return
        if not (left.numel() and right.numel()):
            return
        likes = _Like(left), _Like(right)

        def compute(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            with self._settings(), torch.no_grad():
                found = function(likes[0](a), likes[1](b))
                return found.float().cpu().numpy()

        def exact(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return function(*(torch.from_numpy(x.astype(np.float64)) for x in (a, b))).numpy()

        self._bilinear[key] = Bilinear(
            f"{name} {[*left.shape]} x {[*right.shape]}",
            Operand(shapes[0], kept_left),
            Operand(shapes[1], kept_right),
            compute,
            exact,
            str(left.dtype).removeprefix("torch."),
        )

    def _attend(self, func: Any, name: str, args: Any, kwargs: Any) -> None:
        likes = [_Like(x) for x in args[:3]]
        shapes = [tuple(x.shape) for x in args[:3]]
        causal = _argument(func, args, kwargs, "is_causal", False)
        scale = _argument(func, args, kwargs, "scale", None) or 1 / math.sqrt(shapes[0][-1])
        key = name, *shapes, args[0].dtype
        if key in self._attention or args[0].dtype != torch.float32:
            return
        rest = list(args[3:])
        if len(rest) and (rest[0] is None or isinstance(rest[0], torch.Tensor)):
            rest[0] = None  # a mask
        named = {k: None if k == "attn_mask" else v for k, v in kwargs.items()}

        def compute(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
            with self._settings(), torch.no_grad():
                given = (like(x) for like, x in zip(likes, (q, k, v), strict=True))
                return func(*given, *rest, **named)[0].float().cpu().numpy()

        shown = f"{name} {[*shapes[0]]} x {[*shapes[1]]}"
        q, k, v = shapes
        self._attention[key] = Attention(shown, q, k, v, scale, bool(causal), compute)


class _Like:
    """From an array to a tensor that lies as another did, whatever that one held."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype, self.device = tensor.dtype, tensor.device
        sparse = any(s == 0 and n > 1 for s, n in zip(tensor.stride(), tensor.shape, strict=True))
        self.strides = None if sparse else tensor.stride()
        self.shape = tuple(tensor.shape)

    def __call__(self, array: np.ndarray) -> torch.Tensor:
        given = torch.from_numpy(np.ascontiguousarray(array)).to(self.device, self.dtype)
        if self.strides is None:
            return given
        new = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)
        return new.copy_(given)


def _cases(func: Any, name: str, args: Any) -> Iterator[Case]:
    """(name, left, axes it keeps, right, axes it keeps, the product) of what an operation does."""
    if name in MATRICES:
        first, of_left, of_right = MATRICES[name]
        left, right = args[first : first + 2]
        added = tuple(args[0].shape) if first else None
        yield name, left, of_left, right, of_right, partial(_matrices, func, added)
    elif name == "convolution":
        x, w, _, *rest = args
        transposed = rest[3]
        yield name, x, (0,), w, (1 if transposed else 0,), partial(_forward, rest)
    elif name == "convolution_backward":
        by, x, w, _, *rest = args
        transposed, mask = rest[3], rest[-1]
        if mask[0]:
            kept = (0 if transposed else 1,)
            yield f"{name} by input", by, (0,), w, kept, partial(_by_input, tuple(x.shape), rest)
        if mask[1]:
            yield f"{name} by weight", by, (1,), x, (1,), partial(_by_weight, tuple(w.shape), rest)


def _matrices(func: Any, added: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return func(a, b) if added is None else func(a.new_zeros(added), a, b)


def _forward(rest: Any, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return torch.ops.aten.convolution(x, w, None, *rest)


def _by_input(shape: Any, rest: Any, by: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    mask = [True, False, False]
    x = by.new_zeros(shape)
    return torch.ops.aten.convolution_backward(by, x, w, None, *rest[:-1], mask)[0]


def _by_weight(shape: Any, rest: Any, by: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    mask = [False, True, False]
    w = by.new_zeros(shape)
    return torch.ops.aten.convolution_backward(by, x, w, None, *rest[:-1], mask)[1]


def _adds(args: Any, kwargs: Any) -> bool:
    """Whether an index_put accumulates."""
    return bool(kwargs.get("accumulate", args[3] if len(args) > 3 else False))


def _argument(func: Any, args: Any, kwargs: Any, name: str, default: Any) -> Any:
    for i, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return kwargs.get(name, args[i] if i < len(args) else default)
    return default
