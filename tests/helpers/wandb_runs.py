"""What wandb reads from the offline files of a run."""

import json

from helpers import wandb_server


def inspect(run_directory, *arguments):
    """Return what wandb reads from the only offline run in a run directory."""
    (log,) = run_directory.glob("wandb/offline-run-*/*.wandb")
    return wandb_server.inspect(log, *arguments)


def records(run_directory, kind):
    (log,) = run_directory.glob("wandb/offline-run-*/*.wandb")
    return wandb_server.records(log, kind)


def group_of(record):
    """Return the run group, wherever the tool's record keeps it."""
    text = json.dumps(record)
    (group,) = {value for key, value in flatten(record) if key in ("runGroup", "run_group")} or {""}
    assert group in text
    return group


def flatten(value, key=""):
    if isinstance(value, dict):
        for name, item in value.items():
            yield from flatten(item, name)
    else:
        yield key, value
