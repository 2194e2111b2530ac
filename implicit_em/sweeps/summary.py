"""The tables of a sweep: one row for each job, and mean and deviation over seeds."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from implicit_em.base.errors import DamagedError
from implicit_em.base.files import whole
from implicit_em.base.tables import format_value, markdown_table, print_rows
from implicit_em.config.fingerprint import config_fingerprint
from implicit_em.sweeps.jobs import noted_jobs
from implicit_em.training.directory import RunDirectory
from implicit_em.training.results import IN_SUMMARY


def summarise(directory: Path) -> bool:
    """Write and print the summary of a sweep directory; return whether every job is complete."""
    jobs = read_jobs(directory)
    if jobs.empty:
        print(f"{directory}: holds no jobs")
        return False
    with whole(directory / "summary.csv") as temporary:
        jobs.to_csv(temporary, index=False)
    grouped = group_over_seeds(jobs)
    failed = jobs[jobs["status"] != "completed"]
    with whole(directory / "summary.md") as temporary:
        temporary.write_text(_markdown(grouped, failed))

    names = _short_names(jobs["job"].tolist())
    rows = jobs.assign(job=names)[["job", "status", *IN_SUMMARY]].astype(object)
    print_rows(f"{len(jobs)} jobs", rows.where(rows.notna(), None))
    if len(grouped) < len(jobs):
        print_rows("mean ± std over seeds", grouped)
    for job, status, error in failed[["job", "status", "error"]].itertuples(index=False):
        print(f"{job}: {status}{f': {error}' if isinstance(error, str) else ''}")
    print(f"Written to {directory / 'summary.csv'} and {directory / 'summary.md'}")
    return failed.empty


def read_jobs(directory: Path) -> pd.DataFrame:
    """Return one row for each job: ``job``, ``directory`` and every key of ``metrics.json``.

    Further values of ``status`` are ``not started``; ``unfinished`` for a job that still runs or
    was killed; ``damaged`` if its configuration cannot be read; and ``mismatch`` if its metrics
    belong to another configuration, in which case they are left out.
    """
    waiting = noted_jobs(directory)
    rows = []
    for config in sorted(directory.glob("*/.hydra/config.yaml")):
        run = RunDirectory(config.parents[1])
        waiting.pop(run.path.name, None)
        rows.append(_row(run))
    rows += [
        {"job": job or name, "directory": name, "status": "not started"}
        for name, job in sorted(waiting.items())
    ]
    jobs = pd.DataFrame(rows)
    return jobs.reindex(columns=list(dict.fromkeys([*jobs.columns, "error", *IN_SUMMARY])))


def _row(run: RunDirectory) -> dict[str, Any]:
    row = {"job": run.path.name, "directory": run.path.name}
    try:
        row["job"] = ",".join(run.read_overrides()) or run.path.name
        fingerprint = config_fingerprint(run.read_config())
    except DamagedError as error:
        return row | {"status": "damaged", "error": str(error)}
    metrics = run.read_metrics()
    if metrics is None:
        metrics = {"status": "unfinished"}
    elif metrics.get("config_fingerprint") != fingerprint:
        metrics = {"status": "mismatch", "error": "metrics.json is not of this config"}
    cells = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in metrics.items()}
    return row | cells | row


def group_over_seeds(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return one row, mean ± std as text, for all completed jobs that differ only in the seed."""
    completed = jobs[jobs["status"] == "completed"]
    names = completed["job"].map(lambda job: re.sub("(^|,)seed=[^,]*", "", job).lstrip(","))
    rows = []
    for name, group in completed.groupby(names, sort=False):
        cells = {key: _mean_and_std(group[key]) for key in IN_SUMMARY}
        rows.append({"job": name or "default", "n": str(len(group)), **cells})
    grouped = pd.DataFrame(rows, columns=["job", "n", *IN_SUMMARY])
    grouped["job"] = _short_names(grouped["job"].tolist())
    return grouped


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
    if not failed.empty:
        parts += ["Not complete:", markdown_table(failed[["job", "status", "error"]])]
    return "\n\n".join(parts) + "\n"
