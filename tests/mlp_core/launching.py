"""Programs that are run by several processes on the loopback, as torchrun would start them."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def together(program, count, *arguments):
    """[(exit code, stdout, stderr, seconds it outlived the first to end)] of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    names = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    names |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    all_of_them = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", program, *map(str, arguments)],
            env=os.environ | names | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ended = {}
    try:
        limit = time.monotonic() + 300
        while len(ended) < count and time.monotonic() < limit:
            for process in all_of_them:
                if process not in ended and process.poll() is not None:
                    ended[process] = time.monotonic()
            time.sleep(0.05)
    finally:
        for process in all_of_them:
            process.kill()
    first = min(ended.values(), default=0.0)
    told = [process.communicate() for process in all_of_them]
    return [
        (p.returncode, out, err, ended.get(p, limit) - first)
        for p, (out, err) in zip(all_of_them, told, strict=True)
    ]
