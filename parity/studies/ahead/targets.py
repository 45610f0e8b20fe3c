"""Chips that XLA can compile for without having one."""

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parity.exits import Refused

GB = 1000**3
# A Hopper: NVIDIA's data sheets and the CUDA C++ programming guide, table of compute capabilities.
HOPPER = {
    "threads_per_block_limit": 1024,
    "threads_per_warp": 32,
    "shared_memory_per_block": 48 * 1024,
    "shared_memory_per_block_optin": 227 * 1024,
    "shared_memory_per_core": 228 * 1024,
    "threads_per_core_limit": 2048,
    "registers_per_core_limit": 65536,
    "registers_per_block_limit": 65536,
    "core_count": 132,
    "fpus_per_core": 128,
    "block_dim_limit_x": 2**31 - 1,
    "block_dim_limit_y": 2**16 - 1,
    "block_dim_limit_z": 2**16 - 1,
    "thread_dim_limit_x": 1024,
    "thread_dim_limit_y": 1024,
    "thread_dim_limit_z": 64,
    "l2_cache_size": 50 * 1024**2,
    "clock_rate_ghz": 1.98,
    "device_address_bits": 64,
}


@dataclass(frozen=True)
class Arrangements:
    """Of how many directions, how many chips at most in one of them, in the last, in all."""

    form: str
    longest: int
    last: int
    most: int

    def why_not(self, counts: Sequence[int]) -> str:
        """What speaks against one; "" where nothing that is published does."""
        if len(counts) != (directions := self.form.count("x") + 1):
            return f"expected {directions} numbers ({self.form}), got {len(counts)}"
        if max(counts) > self.longest:
            return f"expected at most {self.longest} in a direction, got {max(counts)}"
        if counts[-1] > self.last:
            return f"expected at most {self.last} in a host, got {counts[-1]}"
        if math.prod(counts) > self.most:
            return f"expected at most {self.most:,} chips, got {math.prod(counts):,}"
        return ""


@dataclass(frozen=True)
class Chip:
    """memory: bytes of a device, as published. needs: {module: the extra that brings it}. figures:
    of a GPU, as XLA asks for them."""

    name: str
    platform: str
    memory: int
    arranged: Arrangements
    needs: Mapping[str, str]
    figures: Mapping[str, int | float] = field(default_factory=dict)


BANDWIDTH = "memory_bandwidth"
TPU = {"libtpu": "tpu"}
CUDA = {"jax_plugins.xla_cuda13": "cuda13", "nvidia.cu13.bin": "cuda13"}
# Chips of a whole pod, 16 x 16 of v5e and v6e, 8,960 of v5p (16 x 20 x 28), 9,216 of tpu7x: Google
# Cloud's documentation, system architecture of each. Which of the smaller ones there are, libtpu
# knows. An HGX H100 or H200 has at most eight GPUs: NVIDIA's data sheets.
FLAT = Arrangements("AxB", 16, 16, 256)
V5P, TPU7X = Arrangements("AxBxC", 28, 28, 8960), Arrangements("AxBxC", 36, 36, 9216)
HGX = Arrangements("slices x hosts x GPUs of a host", 9999, 8, 9999)
# HBM of a TPU chip: the same pages. A tpu7x is two devices.
CHIPS = {
    "tpu-v5e": Chip("v5e", "tpu", 16 * GB, FLAT, TPU),
    "tpu-v5p": Chip("v5p", "tpu", 95 * GB, V5P, TPU),
    "tpu-v6e": Chip("v6e", "tpu", 32 * GB, FLAT, TPU),
    "tpu-7x": Chip("tpu7x", "tpu", 96 * GB, TPU7X, TPU),
    "h100": Chip("NVIDIA H100", "cuda", 80 * GB, HGX, CUDA, HOPPER | {BANDWIDTH: 3350 * GB}),
    "h200": Chip("NVIDIA H200", "cuda", 141 * GB, HGX, CUDA, HOPPER | {BANDWIDTH: 4800 * GB}),
}


@dataclass(frozen=True)
class Target:
    """chip: a key of CHIPS. shape: how many of them in each direction, as 4x4x8."""

    chip: str
    shape: str

    @classmethod
    def parsed(cls, text: str) -> "Target":
        """Raises Refused for what isn't chip:shape."""
        chip, _, shape = text.partition(":")
        counts = shape.split("x")
        right = all(n.isdecimal() and n.isascii() and 0 < len(n) < 5 and int(n) for n in counts)
        if chip not in CHIPS or not right:
            raise Refused(
                f"--target {text}: expected a chip and its arrangement, as tpu-v5e:2x2 or "
                f"h100:1x1x8; chips: {', '.join(CHIPS)}"
            )
        return cls(chip, shape)

    def __str__(self) -> str:
        return f"{self.chip}:{self.shape}"

    @property
    def about(self) -> Chip:
        return CHIPS[self.chip]

    def impossible(self) -> str:
        """Why there is no such arrangement, as far as is known beforehand; "" if nothing is."""
        counts = [int(n) for n in self.shape.split("x")]
        why = self.about.arranged.why_not(counts)
        return f"there is no such arrangement: {why}" if why else ""

    def missing(self) -> str:
        """What has to be installed first, as a sentence; "" if nothing has."""
        for module, extra in self.about.needs.items():
            try:
                found = importlib.util.find_spec(module)
            except ImportError:
                found = None
            if found is None:
                name = module.removeprefix("jax_plugins.")
                return f"needs {name}: pip install 'mlp-parity[{extra}]'"
        return ""

    def devices(self) -> list[Any]:
        """JAX's descriptions of its devices. Raises Refused for an arrangement that the compiler
        doesn't know."""
        from jax.experimental import topologies

        chip = self.about
        name, options = f"{chip.name}:{self.shape}", {}
        if chip.platform == "cuda":
            name, options = "", {"topology": self.shape, "target_config": _described(chip)}
        try:
            found = topologies.get_topology_desc(name, chip.platform, **options)
        except Exception as error:  # JaxRuntimeError, or what libtpu makes of it
            said = (str(error).strip().splitlines() or ["no message"])[0]
            what = "there is no such arrangement" if "INVALID" in said else "the compiler fails"
            raise Refused(f"{what}: {said}") from None
        return list(found.devices)


def _described(chip: Chip) -> str:
    """A GpuTargetConfigProto in text (XLA, stream_executor/device_description.proto)."""
    figures = " ".join(f"{name}: {value}" for name, value in chip.figures.items())
    return f"""
gpu_device_info {{
  {figures} device_memory_size: {chip.memory} name: "{chip.name}"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
  dnn_version: "9.10.0"
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.name}"
"""
