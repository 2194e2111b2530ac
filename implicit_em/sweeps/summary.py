"""The tables of a sweep: one row for each job, and mean and deviation over seeds."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.errors import ConfigError, DamagedError
from implicit_em.base.files import whole
from implicit_em.base.settings import leaves
from implicit_em.base.tables import format_value, markdown_table, print_rows
from implicit_em.config.composing import key_of
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.sweeps.job_directories import noted_jobs
from implicit_em.trained import evaluations
from implicit_em.training.directory import RunDirectory
from implicit_em.training.results import IN_SUMMARY, in_table


def summarise(directory: Path) -> bool:
    """Write and print the summary of a sweep directory; return whether every job is complete.

    Raises:
        ConfigError: if the directory holds no jobs.
        WriteError: if the summary cannot be written.
    """
    jobs = read_jobs(directory)
    if jobs.empty:
        raise ConfigError(f"{directory}: no sweep directory: it holds no jobs")
    with whole(directory / "summary.csv") as temporary:
        jobs.to_csv(temporary, index=False)
    grouped = group_over_seeds(jobs)
    failed = jobs[jobs["status"] != "completed"]
    with whole(directory / "summary.md") as temporary:
        temporary.write_text(_markdown(grouped, failed))

    names = _short_names(jobs["job"].tolist())
    rows = jobs.assign(job=names)[["job", "status", *columns_of(jobs)]].astype(object)
    print_rows(f"{len(jobs)} jobs", rows.where(rows.notna(), None))
    if 0 < len(grouped) < len(jobs):
        print_rows("mean ± std over seeds", grouped)
    for job, status, error in failed[["job", "status", "error"]].itertuples(index=False):
        print(f"{job}: {status}{f': {error}' if isinstance(error, str) else ''}")
    print(f"Written to {directory / 'summary.csv'} and {directory / 'summary.md'}")
    return failed.empty


def read_jobs(directory: str | Path) -> pd.DataFrame:
    """Return one row for each job of a sweep directory, in the order in which they were typed.

    The columns are ``job``, ``directory``, the settings that differ between the jobs, and every key
    of ``metrics.json``. A setting, such as ``lr.value`` or ``model``, must have been typed for some
    job. Its values keep their types. A job that has not started has no settings.

    Further values of ``status`` are ``not started``; ``unfinished`` for a job that still runs or
    was killed; ``damaged`` if its configuration cannot be read; and ``mismatch`` if its metrics
    belong to another configuration, in which case they are left out.
    """
    directory = Path(directory)
    noted = noted_jobs(directory)
    names = dict.fromkeys([*noted, *sorted(started_jobs(directory))])
    runs = {name: RunDirectory(directory / name) for name in names}
    jobs = [
        _read(run) if run.config.exists() else _Job(run, noted[name], {"status": "not started"})
        for name, run in runs.items()
    ]
    rows = []
    for job, settings in zip(jobs, _differing(jobs), strict=True):
        place = str(job.run.path.relative_to(directory))
        named = {"job": job.name or place, "directory": place}
        rows.append(named | settings | job.row | named)
    table = pd.DataFrame(rows)
    return table.reindex(columns=list(dict.fromkeys([*table.columns, "error", *IN_SUMMARY])))


def started_jobs(directory: Path) -> set[str]:
    """Return the paths of a sweep's jobs that have begun, relative to the sweep's directory.

    ``hydra.sweep.subdir`` may put them into folders, such as ``${data.site}/${seed}``.
    """
    configs = chain(*(directory.glob(f"{level}/.hydra/config.yaml") for level in ("*", "*/*")))
    return {str(config.parents[1].relative_to(directory)) for config in configs}


@dataclass
class _Job:
    run: RunDirectory
    name: str
    row: dict[str, Any]
    typed: Mapping[str, str] = field(default_factory=dict)
    """The text that overrides assign to keys and config groups."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The value of every key, and ``typed`` for the groups."""


def _read(run: RunDirectory) -> _Job:
    name = ""
    try:
        overrides = run.read_overrides()
        name = ",".join(overrides)
        config = run.read_config()
    except DamagedError as error:
        return _Job(run, name, {"status": "damaged", "error": str(error)})
    metrics = run.read_metrics()
    if metrics is None:
        metrics = {"status": "unfinished"}
    elif metrics.get("config_fingerprint") != config_fingerprint(config):
        metrics = {"status": "mismatch", "error": "metrics.json is not of this config"}
    typed = {key_of(line): line.partition("=")[2] for line in overrides}
    row = _cells(metrics | evaluations.columns(run.path))
    return _Job(run, name, row, typed, typed | leaves(config))


def _differing(jobs: Sequence[_Job]) -> list[dict[str, Any]]:
    """Return the settings of each job that were typed for some job and differ between the jobs."""
    keys = dict.fromkeys(key for job in jobs for key in job.typed)
    found: list[dict[str, Any]] = []
    for job in jobs:
        complete = not job.settings or job.settings.keys() >= keys.keys()
        defaults = {} if complete else job.run.read_choices()
        found.append({key: job.settings.get(key, defaults.get(key)) for key in keys})
    known = [settings for job, settings in zip(jobs, found, strict=True) if job.settings]
    differing = [key for key in keys if any(s[key] != known[0][key] for s in known)]
    return [_cells({key: settings[key] for key in differing}) for settings in found]


def _cells(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in values.items()}


def group_over_seeds(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return one row, mean ± std as text, for all completed jobs that differ only in the seed."""
    completed = jobs[jobs["status"] == "completed"]
    names = completed["job"].map(lambda job: re.sub("(^|,)seed=[^,]*", "", job).lstrip(","))
    rows, shown = [], columns_of(completed)
    for name, group in completed.groupby(names, sort=False):
        cells = {key: _mean_and_std(group[key]) for key in shown}
        rows.append({"job": name or "default", "n": str(len(group)), **cells})
    grouped = pd.DataFrame(rows, columns=["job", "n", *shown])
    grouped["job"] = _short_names(grouped["job"].tolist())
    return grouped


def columns_of(jobs: pd.DataFrame) -> list[str]:
    """Return the columns with a value that say something of the model of a completed job.

    An evaluation on other data has the columns of a run, and further columns for what no run
    measures. An evaluation on the run's own data has the further columns alone.
    """
    known = jobs.astype(object).where(jobs.notna(), None)[jobs["status"] == "completed"]
    asked = [key for row in known.to_dict("records") for key in in_table(row, of_sweep=True)]
    columns = list(dict.fromkeys(asked))
    for column in jobs:
        kind, _, rest = str(column).partition(".")
        name, _, key = rest.partition(".")
        is_known = key in jobs or key.partition(".")[0] in jobs
        wanted = not is_known or (key in asked and not evaluations.is_own(name))
        if kind == evaluations.COLUMN and wanted:
            columns.append(str(column))
    return [column for column in columns if column in jobs and jobs[column].notna().any()]


def _mean_and_std(column: pd.Series) -> str:
    values = pd.to_numeric(column, errors="coerce").dropna()
    if values.empty:
        return format_value(None)
    mean = format_value(float(values.mean()))
    count = f" ({len(values)} of {len(column)})" if len(values) < len(column) else ""
    spread = f" ± {values.std():.2g}" if len(values) > 1 else ""
    return mean + spread + count


def _short_names(jobs: list[str]) -> list[str]:
    """Return the jobs without the overrides that all of them share."""
    split = [job.split(",") for job in jobs]
    shared = set.intersection(*map(set, split)) if len(split) > 1 else set()
    return [",".join(o for o in job if o not in shared) or ",".join(job) for job in split]


def _markdown(grouped: pd.DataFrame, failed: pd.DataFrame) -> str:
    parts = ["Mean ± std over seeds (n of them).", markdown_table(grouped)]
    if grouped.empty:
        parts = ["No job is complete."]
    if not failed.empty:
        parts += ["Not complete:", markdown_table(failed[["job", "status", "error"]])]
    return "\n\n".join(parts) + "\n"
