"""One process of a command, or several that torchrun or srun launched."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator

from mlp_core.processes import ProcessesError, launched
from parity.exits import USAGE, Refused


@contextlib.contextmanager
def together(side: str, count: int) -> Iterator[bool]:
    """While it lasts, `count` processes of a side train as one; gives whether this one, the first,
    tells and writes what was found.

    Raises ProcessesError for another number than was launched, Refused for both sides.
    """
    if count == 1:
        if (found := launched()) > 1:
            raise ProcessesError(
                f"{found} processes were launched, and each would do the same work alone: add "
                f"--processes {found}"
            )
        yield True
        return
    if side == "both":
        raise Refused("--processes needs --side jax or --side torch: one framework connects them")
    entered = False
    try:
        with importlib.import_module(f"{side}_mlp.processes").connected(count) as here:
            entered = True
            if here.rank == 0:
                yield True
            else:
                with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
                    yield False
    except ProcessesError as error:
        if not entered or side != "jax":
            raise
        # JAX's own exit would wait for the lost process, and then abort.
        sys.stdout.flush()
        print(f"mlp-parity: {error}", file=sys.stderr, flush=True)
        os._exit(USAGE)
