"""Which of several processes this one is, as torchrun, srun or the user's own names say.

    torchrun  RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT
    srun      SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_LOCALID SLURM_STEP_NODELIST SLURM_JOB_ID

Started by hand, a process is told by torchrun's names. Copies of a program that don't know of each
other train the same model each, in silence; so what was asked for, what was launched and what is
connected have to agree.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

START = 120  # seconds that processes wait for each other at the start
PATIENCE = 20  # seconds without a sign of life until a process counts as gone
LAUNCH = "torchrun --nproc-per-node {count} -m parity.cli ..., or srun --ntasks {count} ..."


class ProcessesError(Exception):
    """Processes that don't fit together, or one that has gone."""


class DevicesError(ValueError):
    """A number of devices that can't be had."""


@dataclass(frozen=True)
class Place:
    """This process among all: its number, how many there are, its number on its own host, and
    where process 0 is to be found."""

    rank: int
    count: int
    local: int
    host: str
    port: int


def launched(names: Mapping[str, str] = os.environ) -> int:
    """How many processes were launched together with this one; 1 if nobody says."""
    for name in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        if name in names:
            return _number(names, name)
    return 1


def place(count: int, names: Mapping[str, str] = os.environ) -> Place:
    """This process among the `count` that were asked for.

    Raises ProcessesError where another number was launched, or nobody says which one this is.
    """
    found = launched(names)
    if found != count:
        raise ProcessesError(
            f"{count} processes were asked for, but {found} {'was' if found == 1 else 'were'} "
            f"launched; start them with: {LAUNCH.format(count=count)}"
        )
    if "WORLD_SIZE" in names:
        rank, port = _number(names, "RANK"), _number(names, "MASTER_PORT")
        local = _number(names, "LOCAL_RANK") if "LOCAL_RANK" in names else rank
        host = _text(names, "MASTER_ADDR")
    else:
        # A port of the job's own, of those that nothing is given by name; as JAX chooses it.
        port = 65535 - 2**12 + 1 + _number(names, "SLURM_JOB_ID") % 2**12
        rank, local = (_number(names, name) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
        host = first_host(_text(names, "SLURM_STEP_NODELIST"))
    if not 0 <= rank < count:
        raise ProcessesError(f"process {rank}, expected 0 to {count - 1}")
    return Place(rank, count, local, host, port)


def check(asked: int | None, connected: int, names: Mapping[str, str] = os.environ) -> None:
    """Raises ProcessesError unless as many are connected as a trainer asks for.

    asked: None for all that were launched; 1: this process trains alone, and is meant to.
    """
    wanted = launched(names) if asked is None else asked
    if asked is None and connected > 1 == wanted:  # connected by other means than a launcher's
        return
    if wanted == connected:
        return
    if connected == 1:
        raise ProcessesError(
            f"{wanted} processes were {'launched' if asked is None else 'asked for'}, and this one "
            "is not connected to another: each would train alone. Train inside "
            f"`with connected({wanted}):` of jax_mlp.processes or torch_mlp.processes, or by "
            f"--processes {wanted}; Trainer(processes=1) if each is to train alone"
        )
    raise ProcessesError(f"{wanted} processes were asked for, but {connected} are connected")


def part(size: int, rank: int, count: int) -> slice:
    """Which rows of a batch of `size` a process takes: ceil(size / count) each, the last ones less.

    So every row belongs to one process, and the order is that of the batch.
    """
    each = -(-size // count)
    return slice(min(rank * each, size), min((rank + 1) * each, size))


def of_connection(error: BaseException) -> bool:
    """Whether gloo or NCCL says that another process can't be reached."""
    words = ("Gloo", "gloo", "NCCL", "onnection closed", "onnection reset", "imed out")
    return any(word in str(error) for word in words)


def gone(here: Place, error: BaseException) -> ProcessesError:
    """What is said when the others can't be reached any more."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ProcessesError(
        f"process {here.rank} of {here.count} has lost another one, or never found it at "
        f"{here.host}:{here.port}; look at what that one said, then start all of them again. "
        f"The connection says: {first:.300}"
    )


def first_host(nodes: str) -> str:
    """The first of SLURM's list: "node[007-015],b" gives "node007"."""
    head, bracket, rest = nodes.partition("[")
    if not bracket or "," in head:
        return nodes.partition(",")[0]
    numbers = rest.partition("]")[0]
    return head + numbers.replace(",", "-").partition("-")[0]


def _text(names: Mapping[str, str], name: str) -> str:
    if name not in names:
        raise ProcessesError(f"${name} is not set, as torchrun or srun set it")
    return names[name]


def _number(names: Mapping[str, str], name: str) -> int:
    text = _text(names, name)
    if not text.isdecimal():
        raise ProcessesError(f"${name} is '{text}', expected a number")
    return int(text)
