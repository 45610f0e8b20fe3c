"""A tiny data set in the form of Fashion-MNIST, and a machine without network for its tests."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import mlp_core
from mlp_core import cache
from mlp_core.fashion_mnist import DEFAULT
from mlp_core.idx import encode
from mlp_core.pinned import LAYOUT, NAMES, Manifest

HOUSE = Path(mlp_core.__file__).parents[1]


class Tiny:
    """20 + 10 images of noise, their four files, and the manifest that pins them."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.arrays = [
            rng.integers(0, 256, (20, 28, 28), np.uint8),
            rng.integers(0, 10, 20, np.uint8),
            rng.integers(0, 256, (10, 28, 28), np.uint8),
            np.arange(10, dtype=np.uint8),
        ]
        self.files = dict(zip(NAMES, map(encode, self.arrays), strict=True))
        self.manifest = self.pin(self.files)

    @staticmethod
    def pin(files):
        digests = tuple(hashlib.sha256(content).hexdigest() for content in files.values())
        return Manifest.of("tiny", 20, 10, digests)

    def write(self, folder, how="gz", **changed):
        """The files in `folder` in one of the three ways in which they are found."""
        place = folder / LAYOUT if how == "layout" else folder
        place.mkdir(parents=True, exist_ok=True)
        for name, content in (self.files | changed).items():
            if how == "gz":
                (place / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (place / name).write_bytes(content)
        return folder

    def check(self, dataset):
        found = [a for s in (dataset.train, dataset.val) for a in (s.images, s.labels)]
        for array, expected in zip(found, self.arrays, strict=True):
            assert np.array_equal(array, expected)
        assert not dataset.is_sample


@pytest.fixture(scope="session")
def tiny():
    return Tiny()


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """No network, no apt, an empty cache: what a test needs of these it brings itself."""
    monkeypatch.setenv("MLP_PARITY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASHION_MNIST_DIR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    monkeypatch.setattr(cache, "_instead", {})
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    connect = socket.socket.connect

    def connect_here(self, address):
        assert address[0] == "127.0.0.1", f"a test went to the network: {address}"
        return connect(self, address)

    monkeypatch.setattr("socket.socket.connect", connect_here)


@pytest.fixture
def sources(tmp_path, tiny, alone):
    """Sources of the tiny data set that have nothing yet, save the embedded sample."""
    return dataclasses.replace(
        DEFAULT, manifest=tiny.manifest, system=tmp_path / "system", mirrors=()
    )


@pytest.fixture
def http_folder():
    """Serves a folder, without ranges, on this machine: `http_folder(path)` -> URL."""
    with contextlib.ExitStack() as stack:

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *words):
                pass

        def start(path):
            handler = functools.partial(Handler, directory=str(path))
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            for end in (server.server_close, thread.join, server.shutdown):
                stack.callback(end)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start


@pytest.fixture
def cached(tmp_path):
    """cached() -> names of the data files in the cache, finished or not."""
    return lambda: sorted(path.name for path in (tmp_path / "cache").rglob("*ubyte*"))


def process_of(code, **environment):
    """Start Python code in a process of its own, warnings being errors there too."""
    environment = os.environ | {"PYTHONPATH": str(HOUSE)} | environment
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def fresh():
    """fresh(code, ..., **environment) -> what each prints, run at once, a process each."""

    def run(*codes, **environment):
        processes = [process_of(code, **environment) for code in codes]
        printed = [process.communicate(timeout=60)[0] for process in processes]
        assert not any(process.returncode for process in processes)
        return printed[0] if len(printed) == 1 else printed

    return run
