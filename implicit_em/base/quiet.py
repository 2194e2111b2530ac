"""Hide warnings that the user cannot act on."""

import logging
import sys
import warnings
from contextlib import suppress

NOT_TO_ACT_ON = (
    r".*does not have many workers.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*The `srun` command is available.*",
    r".*It is recommended to use `self.log.*sync_dist=True.*",  # our metrics are already reduced
)
"""Patterns of warnings that ask for nothing a user could do."""


def quieten() -> None:
    """Let libraries log warnings alone, and of these only what the user can act on."""
    import pytorch_lightning  # noqa: F401  (it sets its own level when imported)

    for name in ("pytorch_lightning", "lightning_fabric", "fontTools", "httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it also raises
    for message in NOT_TO_ACT_ON:
        warnings.filterwarnings("ignore", message)


class Console(logging.StreamHandler):
    """A terminal: errors go to stderr, other lines to stdout."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        self.stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        super().emit(record)


class LogFile(logging.FileHandler):
    """A log file that drops lines it cannot write; on a full disk the run itself fails."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or drop it."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the line."""

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            super().close()
