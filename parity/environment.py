"""What figures depend on: versions, hardware, and the command that repeats them."""

import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def environment() -> dict[str, Any]:
    """Versions and hardware that the figures depend on."""
    names = ("mlp-parity", "jax", "jaxlib", "flax", "optax", "torch", "torchvision", "numpy")
    return {
        "versions": {"python": platform.python_version()}
        | {n: v for n in names if (v := _version(n))},
        "hardware": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "machine": platform.machine(),
        },
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def command() -> str:
    """The command line that repeats this run."""
    program, *arguments = sys.argv
    name = Path(program).name
    return shlex.join(["mlp-parity" if name == "cli.py" else name, *arguments])


def _version(name: str) -> str:
    """Empty where it isn't installed; this package may lie in a folder."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
