"""Fashion-MNIST: where it lies, whether it is right, and its bytes as NumPy arrays.

`load` looks in the places of STEPS, in that order, and takes the first that has the data. The
cache keeps the files decompressed in torchvision's own layout, so that NumPy and torchvision read
the very same bytes. Source: Xiao, Rasul, Vollgraf, *Fashion-MNIST* (2017).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.resources
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jaxtyping import UInt8

from mlp_core import cache, fetch, idx, pinned
from mlp_core.fetch import Unavailable
from mlp_core.idx import DataError
from mlp_core.pinned import FULL, LAYOUT, SAMPLE, Manifest

CLASSES = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
Data = str | os.PathLike[str] | None


class LabelError(DataError, ValueError):
    """Labels that name no class."""


@dataclass(frozen=True)
class Split:
    """Images, 0 (background) to 255, and their classes; read-only."""

    images: UInt8[np.ndarray, "n 28 28"]
    labels: UInt8[np.ndarray, " n"]


@dataclass(frozen=True)
class Dataset:
    """Both parts, the folder that torchvision takes as `root`, and where it all came from."""

    train: Split
    val: Split
    root: Path
    source: str
    is_sample: bool
    manifest: Manifest

    @property
    def arrays(self) -> list[UInt8[np.ndarray, "..."]]:
        """The four arrays, in the order of the manifest's files."""
        return [a for s in (self.train, self.val) for a in (s.images, s.labels)]


@dataclass(frozen=True)
class Sources:
    """Which content counts, and the places to look in that aren't the user's to name."""

    manifest: Manifest = FULL
    sample: Manifest = SAMPLE
    system: Path = Path("/usr/share/datasets/fashion-mnist")
    mirrors: tuple[str, ...] = fetch.MIRRORS
    package: str = "dataset-fashion-mnist"


DEFAULT = Sources()


def load(data: Data = None, *, sources: Sources = DEFAULT) -> Dataset:
    """Fashion-MNIST from the first place that has it, verified against its checksums.

    data: a folder with the four files, gzipped or not, or the word "sample"; otherwise
    $FASHION_MNIST_DIR (the same), then the places of STEPS. Falling through to the embedded sample
    is announced on stderr. Raises DataError if what the user named is missing or isn't the data.

        >>> dataset = load("sample")
        >>> dataset.train.images.shape, CLASSES[dataset.train.labels[0]]
        ((6000, 28, 28), 'ankle boot')
    """
    *missed, (place, dataset) = search(data, sources)
    assert isinstance(dataset, Dataset)
    if place == LAST:
        _announce_sample([f"{place}: {reason}" for place, reason in missed], sources)
    return dataset


def search(data: Data = None, sources: Sources = DEFAULT) -> Iterator[tuple[str, Dataset | str]]:
    """Each place in turn with why it has no data, up to the one that has: with its Dataset.

    Raises DataError for a place that the user named, or if the sample itself is damaged.

        >>> *missed, (place, dataset) = search("sample")
        >>> place, dataset.is_sample
        ('data argument', True)
    """
    for place, step in STEPS:
        try:
            found = step(data, sources)
        except Unavailable as reason:
            yield place, str(reason)
        except DataError as error:
            if step in (_argument, _environment, _sample):
                raise
            yield place, str(error)
        else:
            yield place, found
            return


def check_labels(labels: npt.ArrayLike, num_classes: int = 10, where: object = "labels") -> None:
    """Refuse labels that aren't integers in [0, num_classes): [n], before any framework sees them.

    optax makes NaN of 10 and wraps -1, Torch ignores -100. Raises LabelError.

        >>> check_labels([0, 9, 10])
        Traceback (most recent call last):
        mlp_core.fashion_mnist.LabelError: labels: expected integers in [0, 10), got 10 at...
    """
    labels, expected = np.asarray(labels), f"integers in [0, {num_classes})"
    if labels.dtype.kind not in "iu":
        raise LabelError(where, expected, f"dtype {labels.dtype}")
    bad = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if bad.size:
        first = f"{labels.flat[bad[0]]} at index {bad[0]}"
        more = f" (the first of {bad.size:,} such labels)" if bad.size > 1 else ""
        raise LabelError(where, expected, first + more, f"are there {num_classes} classes?")


def check_in_memory(dataset: Dataset) -> None:
    """Refuse arrays that are no longer what was read and verified. Raises DataError.

    >>> check_in_memory(load("sample"))  # nothing wrote to it
    """
    for file, array in zip(dataset.manifest.files, dataset.arrays, strict=True):
        if (found := _sha256(array)) != file.sha256:
            where, remedy = f"{file.name} in memory", "something wrote to it; is the memory faulty?"
            raise DataError(where, f"SHA-256 {file.sha256}", found, remedy)


def _sha256(array: UInt8[np.ndarray, "..."]) -> str:
    """Of the file that the array was read from."""
    return hashlib.sha256(idx.encode(array)).hexdigest()


def describe(dataset: Dataset) -> str:
    """The files with sizes, shapes and SHA-256, and how many images of each class, as text.

    >>> print(describe(load("sample")).splitlines()[0])
    Fashion-MNIST: embedded sample (...
    """
    lines = [f"Fashion-MNIST: {dataset.source}", f"{dataset.root / LAYOUT}"]
    for file, array in zip(dataset.manifest.files, dataset.arrays, strict=True):
        shape = " x ".join(map(str, array.shape))
        lines.append(f"  {file.name:<24}{file.size:>11,} bytes  uint8 {shape}")
        lines.append(f"    sha256 {_sha256(array)}")
    counts = [np.bincount(s.labels, minlength=10) for s in (dataset.train, dataset.val)]
    lines.append(f"  {'class':<13}{'train':>7}{'val':>7}")
    for name, train, val in zip(CLASSES, *counts, strict=True):
        lines.append(f"  {name:<13}{train:>7,}{val:>7,}")
    lines.append(f"  {'all':<13}{counts[0].sum():>7,}{counts[1].sum():>7,}")
    return "\n".join(lines)


# The steps: each gives the Dataset or raises Unavailable with the reason.


def _argument(data: Data, sources: Sources) -> Dataset:
    if data is None:
        raise Unavailable("not given")
    return _named(os.fspath(data), "data", sources)


def _environment(data: Data, sources: Sources) -> Dataset:
    if not (named := os.environ.get("FASHION_MNIST_DIR")):
        raise Unavailable("not set")
    return _named(named, "$FASHION_MNIST_DIR", sources)


def _cache(data: Data, sources: Sources) -> Dataset:
    root = cache.folder() / sources.manifest.name
    if not os.path.isdir(root):
        raise Unavailable(f"nothing in {root}")
    return _open(root, sources.manifest, f"cache {root}", sources)


def _system(data: Data, sources: Sources) -> Dataset:
    if not os.path.isdir(sources.system):
        raise Unavailable(f"no {sources.system}")
    return _adopt(sources.system, str(sources.system), sources)


def _download(data: Data, sources: Sources) -> Dataset:
    if not (mirrors := fetch.answering(sources.mirrors)):
        raise Unavailable(f"no answer from {', '.join(sources.mirrors) or 'any mirror'}")
    manifest, urls = sources.manifest, []
    with cache.filling(manifest) as (root, todo):
        for file in todo:
            target, part = root / LAYOUT / file.name, root / f"{file.name}.gz"
            install = functools.partial(pinned.install, target=target, file=file, manifest=manifest)
            # gzip never adds more than that to what it can't compress.
            limit = file.size + (1 << 16)
            urls.append(fetch.download(part.name, mirrors, part, limit, install))
    hosts = dict.fromkeys(url.rsplit("/", 1)[0] for url in urls)
    return _open(root, manifest, ", ".join(hosts) or f"cache {root}", sources)


def _package(data: Data, sources: Sources) -> Dataset:
    with fetch.unpacked(sources.package) as root:
        folder = root / sources.system.relative_to("/")
        return _adopt(folder, f"Debian's {sources.package}, unpacked without root", sources)


def _sample(data: Data, sources: Sources) -> Dataset:
    source = f"embedded sample ({sources.sample})"
    with contextlib.ExitStack() as stack:  # a zipped package unpacks them for a while
        folder = importlib.resources.files("mlp_core") / "sample"
        paths = [
            stack.enter_context(importlib.resources.as_file(folder / f"{file.name}.gz"))
            for file in sources.sample.files
        ]
        return _copied(paths, sources.sample, source, sources)


LAST = "embedded sample"
STEPS = (
    ("data argument", _argument),
    ("$FASHION_MNIST_DIR", _environment),
    ("cache", _cache),
    ("system folder", _system),
    ("download", _download),
    ("Debian package", _package),
    (LAST, _sample),
)


def _named(named: str, by: str, sources: Sources) -> Dataset:
    """What the user named: the sample, or a folder, in place if it is in torchvision's layout."""
    if named == "sample":
        return _sample(named, sources)
    folder = Path(os.path.expanduser(named))
    if not named or not os.path.isdir(folder):
        remedy = 'name a folder, or "sample" for the embedded images'
        got = "a file" if os.path.isfile(folder) else "no such folder"
        raise DataError(f"{by} {named!r}", "a folder with the four files", got, remedy)
    return _adopt(folder.absolute(), str(folder), sources)


def _adopt(folder: Path, source: str, sources: Sources) -> Dataset:
    """The data in a folder: used in place if torchvision could, else copied into the cache."""
    paths = _locate(folder, sources.manifest)
    parent = paths[0].parent
    in_layout = parent.parts[-2:] == LAYOUT.parts
    if in_layout and all(p.parent == parent and p.suffix != ".gz" for p in paths):
        return _open(parent.parent.parent, sources.manifest, source, sources)
    return _copied(paths, sources.manifest, source, sources)


def _copied(paths: list[Path], manifest: Manifest, source: str, sources: Sources) -> Dataset:
    """The cache's copy of four files, made if it is missing, or damaged, which is told."""
    try:
        dataset = _open(cache.folder() / manifest.name, manifest, source, sources)
    except DataError:
        dataset = _open(cache.fill(paths, manifest), manifest, source, sources)
    cache.verify_sources(paths, manifest)
    return dataset


def _locate(folder: Path, manifest: Manifest) -> list[Path]:
    places = (folder / LAYOUT, folder)
    paths = []
    for file in manifest.files:
        candidates = [p / (file.name + end) for p in places for end in ("", ".gz")]
        paths += [path for path in candidates if os.path.isfile(path)][:1]
    if len(paths) < len(manifest.files):
        found = {path.name.removesuffix(".gz") for path in paths}
        missing = ", ".join(f.name for f in manifest.files if f.name not in found)
        expected = "the four files of Fashion-MNIST, gzipped (.gz) or not"
        raise DataError(folder, expected, f"none named {missing}")
    return paths


def _open(root: Path, manifest: Manifest, source: str, sources: Sources) -> Dataset:
    """Read the four files below root. Raises DataError unless they are what the manifest says."""
    paths = [root / LAYOUT / file.name for file in manifest.files]
    train_images, train_labels, val_images, val_labels = (
        pinned.read(path, file, manifest) for path, file in zip(paths, manifest.files, strict=True)
    )
    check_labels(train_labels, where=paths[1])
    check_labels(val_labels, where=paths[3])
    train, val = Split(train_images, train_labels), Split(val_images, val_labels)
    return Dataset(train, val, root, source, manifest == sources.sample, manifest)


def _announce_sample(missed: list[str], sources: Sources) -> None:
    bar = "=" * 80
    lines = [
        bar,
        f"  NOT ALL OF FASHION-MNIST: the embedded sample, {sources.sample},",
        f"  in the place of {sources.manifest}. Losses and accuracies will not be the book's.",
        f"  To get the whole: install Debian's {sources.package}, or connect to the network,",
        "  or name a folder with the four files in $FASHION_MNIST_DIR or with --data.",
        "  Looked for in:",
        *(f"    {line}" for line in missed),
        bar,
    ]
    print(*lines, sep="\n", file=sys.stderr, flush=True)
