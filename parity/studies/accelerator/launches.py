"""What a profile of one epoch shows: how many launches a step takes, and the gaps between them.

    busy = length of the union of all launches' times;  gap = what lies between two of its parts

On a GPU a launch is a kernel or a copy on a stream, on a TPU an operation of XLA's, on a CPU a
thunk of XLA's or an operation that Torch dispatches: none of those is launched, but they are
counted alike, and over ten steps, for there the profiler is most of the time.
"""

import glob
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from parity.device import Device
from parity.studies.bench.timing import Size
from parity.studies.placing import on

MOST = 5  # of the kinds of launches that take the longest


@dataclass(frozen=True)
class Launch:
    """One operation on the device. Seconds, by a clock of the profile's own."""

    name: str
    start: float
    end: float


def summary(launches: Sequence[Launch], steps: int) -> dict[str, Any]:
    """Launches a step, seconds busy and idle, the gaps. Raises ValueError for none at all."""
    if not launches:
        raise ValueError("the profile shows no launch on this device")
    parts: list[list[float]] = []
    for one in sorted(launches, key=lambda launch: launch.start):
        if parts and one.start <= parts[-1][1]:
            parts[-1][1] = max(parts[-1][1], one.end)
        else:
            parts.append([one.start, one.end])
    gaps = np.array([b[0] - a[1] for a, b in zip(parts, parts[1:], strict=False)])
    busy = sum(end - start for start, end in parts)
    seconds: dict[str, float] = {}
    counts = Counter[str]()
    for one in launches:
        seconds[one.name] = seconds.get(one.name, 0.0) + one.end - one.start
        counts[one.name] += 1
    return {
        "launches": len(launches),
        "launches a step": len(launches) / steps,
        "steps": steps,
        "span": parts[-1][1] - parts[0][0],
        "busy": busy,
        "gaps": len(gaps),
        "median gap": float(np.median(gaps)) if len(gaps) else 0.0,
        "longest gap": float(gaps.max()) if len(gaps) else 0.0,
        "longest kinds": [
            {"name": name, "launches a step": counts[name] / steps, "seconds": took}
            for name, took in sorted(seconds.items(), key=lambda kind: -kind[1])[:MOST]
        ],
    }


def profiled(device: Device, small: bool) -> dict[str, Any]:
    """One epoch of each side's Trainer in native float32, after one that compiles."""
    size = Size(examples=2_560 if small or device == "cpu" else 60_000)
    found: dict[str, Any] = {}
    for side, launches in (("jax", _jax), ("torch", _torch)):
        try:
            found[side] = summary(launches(device, size), -(-size.examples // size.batch))
        except Exception as error:  # a profiler that isn't there; the other side's is
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            found[side] = {"failed": said}
    if all("failed" in one for one in found.values()):
        raise RuntimeError("; ".join(f"{side}: {one['failed']}" for side, one in found.items()))
    return found


def _jax(device: Device, size: Size) -> list[Launch]:
    import jax_mlp
    from parity.studies.bench.jax_rows import Training

    with on(device, "jax") as options, tempfile.TemporaryDirectory() as folder:
        epoch = _epoch(jax_mlp, Training(size, "sample"), options)
        epoch()
        asked = jax.profiler.ProfileOptions()
        asked.python_tracer_level = 0  # it would fill the profile, and slow what is profiled
        with jax.profiler.trace(folder, profiler_options=asked):
            epoch()
        (written,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        content = Path(written).read_bytes()
    with warnings.catch_warnings():
        # From Python 3.12 on jaxlib warns of its own types; as an error that would end the process.
        warnings.simplefilter("ignore", DeprecationWarning)
        return [*_planes(jax.profiler.ProfileData.from_serialized_xspace(content))]


def _planes(profile: Any) -> Iterator[Launch]:
    """Of the devices, or, where there are none beside it, of the host."""
    planes = [p for p in profile.planes if p.name.startswith("/device:")] or [*profile.planes]
    for plane in planes:
        there = plane.name.startswith("/device:")
        for line in plane.lines:
            if there and not (line.name.startswith("Stream") or line.name == "XLA Ops"):
                continue
            for event in line.events:
                if not there and event.name.startswith(("while", "call", "conditional")):
                    continue  # it lasts as long as those in it
                if there or any(name == "hlo_op" for name, _ in event.stats):
                    start = 1e-9 * event.start_ns
                    yield Launch(event.name, start, start + 1e-9 * event.duration_ns)


def _torch(device: Device, size: Size) -> list[Launch]:
    import torch
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    import torch_mlp
    from parity.studies.bench.torch_rows import Training

    with on("cuda" if device == "cuda" else "cpu", "torch") as options:
        epoch = _epoch(torch_mlp, Training(size, "sample"), options)
        epoch()
        there = bool(options)
        asked = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if there else [])]
        with profile(activities=asked, acc_events=True) as seen:
            epoch()
            if there:
                torch.cuda.synchronize()
    events: list[Any] = [*(seen.events() or ())]
    if there:
        kept = [e for e in events if e.device_type == DeviceType.CUDA]
    else:
        kept = [e for e in events if e.name.startswith("aten::") and not e.cpu_children]
    times = ((e.name, e.time_range.start, e.time_range.end) for e in kept)
    return [Launch(name, 1e-6 * start, 1e-6 * end) for name, start, end in times]


def _epoch(room: Any, data: Any, options: dict[str, Any]) -> Callable[[], object]:
    room.manual_seed(0)
    model = room.MLPScratch(784, 10, (256,), lr=0.1)
    return lambda: room.Trainer(1, **options).fit(model, data)
