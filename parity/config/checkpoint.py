"""Options of the commands that can be killed at any moment and go on."""

from dataclasses import dataclass
from pathlib import Path

from parity.config.network import Source


@dataclass(frozen=True, kw_only=True)
class Resumable(Source):
    checkpoint: Path | None = None
    """Folder to save the work to after every epoch, each time whole or not at all; Ctrl-C and
    SIGTERM save too."""
    resume: bool = False
    """Go on from the last checkpoint, to the bits of a run that was never stopped; from the
    beginning if there is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint is None:
            for option in ("resume", "checkpoint_every"):
                if getattr(self, option, None):
                    name = option.replace("_", "-")
                    raise ValueError(f"--{name} needs a folder of checkpoints: --checkpoint")


@dataclass(frozen=True, kw_only=True)
class Checkpointed(Resumable):
    checkpoint_every: int | None = None
    """Steps from one checkpoint to the next within an epoch."""
