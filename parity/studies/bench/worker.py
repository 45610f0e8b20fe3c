"""The process of one row: python -m parity.studies.bench.worker '{"name": ..., ...}'."""

import importlib
import json
import os
import sys

from parity.device import DeviceMissing
from parity.studies.bench.pace import Pace
from parity.studies.bench.timing import Size
from parity.studies.orphans import end_with_parent


def main() -> None:
    end_with_parent()
    given = json.loads(sys.argv[1])
    # Answers go out by a copy of stdout; what a library prints goes to stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    pace = Pace(sys.stdin, answers)
    try:
        room = importlib.import_module(f"parity.studies.bench.{given['room']}_rows")
        pace.tell(loaded=True)
        pace.wait()
        size = Size(**given["size"])
        room.main(given["name"], size, given["data"], given["precision"], given["device"], pace)
    except DeviceMissing as error:
        pace.tell(error=str(error))
    except ImportError as error:
        pace.tell(missing=error.name or str(error))
    except Exception as error:
        pace.tell(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
