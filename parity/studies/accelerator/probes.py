"""Questions to a device that no command asks: what it is, its products' bits, its determinism.

Run as `python -m parity.studies.accelerator.probes NAME DEVICE FILE`; writes FILE.
"""

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jax_mlp import programs
from mlp_core.files import write_json
from mlp_core.history import History
from parity.device import NAMES, Device, DeviceMissing, driver
from parity.environment import environment
from parity.exits import USAGE
from parity.levels.precision import Product
from parity.levels.products import attended_scores, attended_values
from parity.sides.bilinear import Attention
from parity.sides.jax_device import jax_device
from parity.studies.accelerator.launches import profiled
from parity.studies.placing import on

HIDDEN = 256  # units of the model that is trained as a graph
N = 64  # of a product; 64 x 64 random numbers show their last bit but for a chance of 2^-4096


def found(device: str) -> dict[str, Any]:
    """Device, driver, versions."""
    here = jax_device(device)
    about = environment()
    facts: dict[str, Any] = {
        "device": here.device_kind,
        "platform": here.platform,
        "count": len(jax.devices(device)),
        "memory": _memory(here),
        "driver": driver() if device == "cuda" else "-",
        "processor": about["hardware"]["processor"],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    try:
        with on("cuda" if device == "cuda" else "cpu", "torch") as options:
            facts["Torch computes on"] = "CUDA" if options else "the CPU"
    except DeviceMissing as missing:  # JAX's stages can still be asked
        facts["Torch computes on"] = f"nothing here: {missing}"
    return facts | {name: text for name, text in about["versions"].items() if name != "python"}


def precision(device: str) -> dict[str, Any]:
    """Effective bits of the operands of products, as each framework's settings leave them."""
    rng = np.random.default_rng(0)
    W = rng.uniform(1, 2, (N, N)).astype(np.float32)
    products = []
    for side, settings in (("jax", _jax_products(device)), ("torch", _torch_products(device))):
        with suppress(DeviceMissing):  # of one side: the other's are asked
            for setting, operation, compute in settings:
                bits = Product(operation, W.ravel(), np.asarray(compute(W)).ravel()).bits
                products.append(
                    {"side": side, "setting": setting, "operation": operation, "bits": bits}
                )
    with suppress(DeviceMissing):
        for side, setting, fused in _fused(device):
            for what, measure in (("values", attended_values), ("scores", attended_scores)):
                bits, asked = measure(fused).bits, f"attention, {what}"
                products.append(
                    {"side": side, "setting": setting, "operation": asked, "bits": bits}
                )
    return {"products": products}


Case = tuple[str, str, Callable[[np.ndarray], Any]]


def _jax_products(device: str) -> Iterator[Case]:
    here, eye = jax_device(device), np.eye(N, dtype=np.float32)

    def case(operation: Callable[[Any, Any], Any]) -> Callable[[np.ndarray], Any]:
        return lambda W: jax.jit(operation)(*jax.device_put((eye, W), here))

    for setting in ("default", "high", "highest"):
        chosen = None if setting == "default" else setting

        def product(a: Any, b: Any, chosen: Any = chosen) -> Any:
            return jnp.matmul(a, b, precision=chosen)

        def batched(a: Any, b: Any, chosen: Any = chosen) -> Any:
            return jnp.einsum("hqk,hkd->hqd", a[None], b[None], precision=chosen)[0]

        def convolution(a: Any, b: Any, chosen: Any = chosen) -> Any:
            image, kernel = a.reshape(N, N, 1, 1), b.T.reshape(N, N, 1, 1)
            out = jax.lax.conv(image, kernel, (1, 1), "VALID", precision=chosen)
            return out.reshape(N, N)

        yield f"precision={setting}", "product", case(product)
        yield f"precision={setting}", "batched product", case(batched)
        yield f"precision={setting}", "convolution", case(convolution)


def _torch_products(device: str) -> Iterator[Case]:
    import torch

    from parity.sides.torch_device import torch_device

    where = torch_device(device)
    eye = torch.eye(N, device=where)
    before = torch.get_float32_matmul_precision()
    default = torch.backends.cudnn.allow_tf32

    def convolution(W: np.ndarray) -> Any:
        kernel = torch.from_numpy(W.T.copy()).to(where)[:, :, None, None]
        return torch.conv2d(eye[:, :, None, None], kernel)[:, :, 0, 0].cpu().numpy()

    def product(W: np.ndarray) -> Any:
        return (eye @ torch.from_numpy(W).to(where)).cpu().numpy()

    def batched(W: np.ndarray) -> Any:
        return torch.bmm(eye[None], torch.from_numpy(W).to(where)[None])[0].cpu().numpy()

    try:
        for setting in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(setting)
            yield f"matmul precision {setting}", "product", product
            yield f"matmul precision {setting}", "batched product", batched
        for allowed in (default, False):
            torch.backends.cudnn.allow_tf32 = allowed
            yield f"cudnn.allow_tf32={allowed}", "convolution", convolution
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = default


def _fused(device: str) -> Iterator[tuple[str, str, Attention]]:
    """Attention as each framework offers it, [batch, heads, length, size]."""
    import torch

    from parity.sides.torch_device import torch_device

    shape, here = (2, 4, 32, 32), jax_device(device)

    def ours(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        given = (
            jax.device_put(x.swapaxes(1, 2), here) for x in (q, k, v)
        )  # [.., length, heads, ..]
        return np.asarray(jax.jit(jax.nn.dot_product_attention)(*given)).swapaxes(1, 2)

    def theirs(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        Q, K, V = (torch.from_numpy(x).to(torch_device(device)) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(Q, K, V).cpu().numpy()

    for setting in ("default", "highest"):
        with jax.default_matmul_precision(None if setting == "default" else setting):
            one = Attention("", shape, shape, shape, shape[-1] ** -0.5, False, ours)
            yield "jax", f"precision={setting}", one
    yield "torch", "default", Attention("", shape, shape, shape, shape[-1] ** -0.5, False, theirs)


def determinism(device: Device) -> dict[str, Any]:
    """One epoch of the sample, twice in each framework; and once more on the CPU."""
    runs: list[dict[str, Any]] = []
    for side in ("jax", "torch"):
        with suppress(DeviceMissing):
            first, same = _epoch(side, device), f"twice on {device}"
            runs.append(_compared(side, same, first, _epoch(side, device), judged=True))
            if device != "cpu":  # where sums have another order: no fault
                what = f"{device} and the CPU, native float32"
                runs.append(_compared(side, what, first, _epoch(side, "cpu"), judged=False))
    return {"runs": runs}


def _compared(side: str, what: str, one: bytes, other: bytes, judged: bool) -> dict[str, Any]:
    return {"side": side, "what": what, "same": one == other, "judged": judged}


def graph(device: Device) -> dict[str, Any]:
    """Epochs of JAX's scan, as one graph each and with each step started by the host.

    The second time a graph is run is another path than the first: there are four.
    """
    runs = []
    for what, asked in (("one graph", programs.of_a_loop), ("step by step", lambda device: None)):
        with mock.patch.object(programs, "of_a_loop", asked):
            history, weights = _trained("jax", device, HIDDEN, epochs=4)
        told = asked(jax_device(device)) is not None
        seconds = [epoch.seconds for epoch in history.epochs]
        digest = hashlib.sha256(weights).hexdigest()
        runs.append({"what": what, "told": told, "seconds": seconds, "weights": digest})
    return {"runs": runs}


def _epoch(side: str, device: Device) -> bytes:
    """The weights after it."""
    return _trained(side, device, hidden=64, epochs=1)[1]


def _trained(side: str, device: Device, hidden: int, epochs: int) -> tuple[History, bytes]:
    """What a run on the sample measured, and its weights."""
    import importlib

    room = importlib.import_module(f"{side}_mlp")
    get = importlib.import_module(f"{side}_mlp.checkpoint").get_weights
    with on(device, side) as options:
        room.manual_seed(0)
        data = room.FashionMNIST(256, data="sample", seed=0)
        model = room.MLPScratch(784, 10, hidden, 0.1)
        history = room.Trainer(epochs, **options).fit(model, data)
        return history, b"".join(array.tobytes() for array in get(model).values())


def _memory(device: Any) -> str:
    limit = (device.memory_stats() or {}).get("bytes_limit") if device.platform != "cpu" else None
    return f"{limit / 2**30:.0f} GiB for JAX" if limit else "-"


def _known(name: str) -> Device:
    return next(one for one in NAMES if one == name)


PROBES: dict[str, Callable[[Device], dict[str, Any]]] = {
    "found": found,
    "precision": precision,
    "determinism": determinism,
    "graph": graph,
    "launches": partial(profiled, small=False),
    "launches of few steps": partial(profiled, small=True),
}


def main() -> int:
    """0; 1 where bits differ that should be the same; 2 for a device that isn't there."""
    name, chosen, written = sys.argv[1:]
    try:
        found = PROBES[name](_known(chosen))
    except DeviceMissing as missing:
        print(missing)
        return USAGE
    write_json(Path(written), found)
    return int(any(not run["same"] for run in found.get("runs", ()) if run.get("judged")))


if __name__ == "__main__":
    sys.exit(main())
