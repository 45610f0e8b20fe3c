"""Fetching over the network: a resumed download from mirrors, and Debian's package without root.

Both only bring bytes; whether they are the right ones is for the caller's checksum. requests and
tqdm are imported where they are needed: most starts find the data in the cache.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mlp_core.idx import DataError

# Zalando's own two; torchvision uses the first.
MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
CHUNK = 1 << 16


class Unavailable(Exception):
    """A place that doesn't have the data, with the reason: the next one is tried."""


def say(text: str) -> None:
    """Tell the user, on stderr, what takes its time or went another way."""
    print(f"mlp-parity: {text}", file=sys.stderr, flush=True)


def answering(mirrors: Sequence[str], seconds: float = 4.0) -> list[str]:
    """The mirrors that answer within so many seconds in all, whatever they answer."""
    import requests

    answered = set()

    def knock(mirror: str) -> None:
        with contextlib.suppress(requests.RequestException):
            requests.head(mirror, timeout=seconds)
            answered.add(mirror)

    # requests' timeout covers neither the name's look-up nor the sum over a host's addresses, so
    # a machine cut off from the network could hang here for a minute; an abandoned thread doesn't.
    threads = [threading.Thread(target=knock, args=(m,), daemon=True) for m in mirrors]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [mirror for mirror in mirrors if mirror in answered]


def download(
    name: str, mirrors: Sequence[str], part: Path, limit: int, accept: Callable[[Path], object]
) -> str:
    """Fetch mirror/name into `part`, going on from what lies there; the URL that served the end.

    `accept(part)` raises DataError for wrong content: then `part` is dropped and the next mirror
    asked. An interrupted transfer leaves `part` for the next mirror, or for the next run. At most
    `limit` bytes are taken. Raises Unavailable when every mirror has failed twice.
    """
    problems = []
    part.parent.mkdir(parents=True, exist_ok=True)
    for url in [mirror + name for mirror in mirrors] * 2:
        try:
            _resume(url, part, limit)
            accept(part)
        except OSError as error:  # every exception of requests is one
            problems.append(f"{url}: {error}")
        except DataError as error:
            problems.append(f"{url}: {error}")
            part.unlink(missing_ok=True)
        else:
            part.unlink()
            return url
    raise Unavailable("; ".join(dict.fromkeys(problems)) or "no mirror")


def _resume(url: str, part: Path, limit: int) -> None:
    import requests
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    # Another encoding would compress anew, and count other bytes.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=(5, 20)) as reply:
        if reply.status_code == 416:  # nothing after `have`: an earlier run fetched it all
            return
        reply.raise_for_status()
        if reply.status_code != 206:  # the server sends the whole, asked or not
            have = 0
        length = reply.headers.get("Content-Length")
        total = have + int(length) if length and length.isdecimal() else None
        # A log that isn't a terminal gets a line now and then, not ten a second.
        pause = 0.1 if sys.stderr.isatty() else 10.0
        bar = tqdm(
            total=total, initial=have, desc=part.name, unit="B", unit_scale=True, mininterval=pause
        )
        with part.open("ab" if have else "wb") as file, bar:
            for chunk in reply.iter_content(CHUNK):
                have += file.write(chunk)
                bar.update(len(chunk))
                if have > limit:
                    raise DataError(url, f"at most {limit:,} bytes", "more")
    if total is not None and have < total:
        raise requests.ConnectionError(f"interrupted at {have:,} of {total:,} bytes")


@contextlib.contextmanager
def unpacked(package: str) -> Iterator[Path]:
    """The root of a Debian package's files, unpacked without root in a temporary folder.

    Where the machine has no package lists (images often drop them), private ones are fetched.
    Raises Unavailable where apt isn't there, doesn't know the package or can't fetch it.
    """
    if missing := [tool for tool in ("apt-get", "dpkg-deb") if not shutil.which(tool)]:
        raise Unavailable(f"no {' or '.join(missing)} here")
    with tempfile.TemporaryDirectory(prefix="mlp-parity-") as name:
        folder = Path(name)
        options = ["-o", "Acquire::http::Timeout=5", "-o", "Acquire::https::Timeout=5"]
        options += ["-o", "Acquire::Retries=1", "-o", "APT::Sandbox::User="]
        try:
            _run(["apt-get", "download", "--print-uris", package], folder, 20)
        except Unavailable:
            for kind in ("lists", "cache"):
                (folder / kind / "partial").mkdir(parents=True)
            options += ["-o", f"Dir::State::Lists={folder}/lists"]
            options += ["-o", f"Dir::Cache={folder}/cache"]
            _run(["apt-get", "update", *options], folder, 60)
        say(f"fetching Debian's package {package}")
        _run(["apt-get", "download", *options, package], folder, 300)
        for archive in folder.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(archive), "root"], folder, 60)
        yield folder / "root"


def _run(command: list[str], folder: Path, seconds: int) -> None:
    environment = os.environ | {"LC_ALL": "C"}
    try:
        subprocess.run(
            command,
            cwd=folder,
            env=environment,
            timeout=seconds,
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
        raise Unavailable(f"{command[0]}: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
