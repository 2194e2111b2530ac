"""Silence for what the user of a run can do nothing about."""

import logging
import warnings
from contextlib import suppress

HOPELESS = (
    r".*does not have many workers.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*The `srun` command is available.*",
    r".*It is recommended to use `self.log.*sync_dist=True.*",  # our metrics are reduced already
)


def quieten() -> None:
    """Keep libraries to their warnings, and those to what somebody can act on."""
    import pytorch_lightning  # noqa: F401  (it sets its own level when imported)

    for name in ("pytorch_lightning", "lightning_fabric", "fontTools"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # it logs what it also raises
    for message in HOPELESS:
        warnings.filterwarnings("ignore", message)


class LogFile(logging.FileHandler):
    """A log file that leaves out what it cannot write; a run on a full disk says so elsewhere."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the line out."""

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):
            super().close()
