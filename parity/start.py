"""`mlp-parity` from its first moment: Ctrl-C while the commands are imported ends it at once."""

import os
import signal
from typing import Any


def main() -> int:
    """Run one command. The imports take half a second, in which a KeyboardInterrupt would end as
    a traceback, or in a module that catches what it shouldn't."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, _at_once)
    from parity import cli

    signal.signal(signal.SIGINT, before)
    return cli.main()


def _at_once(number: int, frame: Any) -> None:
    os.write(2, b"mlp-parity: interrupted\n")
    os._exit(130)
