"""The dashboards: saved views of a W&B project, over keys that its runs log."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
import yaml
from wandb_workspaces.workspaces import internal

from implicit_em_studies.paper.study import STUDY

VIEWS = Path(__file__).with_name("views.yaml")
MOST_RUNS = 100  # most runs that a panel shows; W&B's default is 10
OVER_SEEDS: Any = {"groupby_aggfunc": "mean", "max_runs_to_show": MOST_RUNS}
Panel = Any  # lists of the package's classes are invariant


def dashboards(entity: str, project: str) -> list[ws.Workspace]:
    """Return the dashboards, each over the runs of one experiment, grouped over the seeds."""
    views = yaml.safe_load(VIEWS.read_text(encoding="utf-8"))
    return [_dashboard(entity, project, name, **view) for name, view in views.items()]


def specification(workspace: ws.Workspace) -> dict[str, Any]:
    """Return a dashboard as W&B gets it, in plain containers."""
    return workspace._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)


def publish(workspace: ws.Workspace) -> str:
    """Create a dashboard, or update an existing one; return its address.

    Raises:
        ValueError: if the project does not exist.
    """
    name = internal._internal_name_to_url_query_str(workspace._internal_name)
    try:
        view = internal.get_view_dict(workspace.entity, workspace.project, name)
        workspace._internal_id = view["id"]
    except ValueError as error:
        if not str(error).startswith("Workspace"):
            raise
        workspace._internal_id = ""  # no view was saved under this name
    workspace.save()
    return workspace.url


def _dashboard(
    entity: str,
    project: str,
    experiment: str,
    by: Sequence[str],
    sections: Mapping[str, Sequence[Mapping[str, Sequence[str]]]],
) -> ws.Workspace:
    """Return a dashboard of an experiment's runs, which are tagged with it or its sweeps."""
    name = _digest(entity, project, experiment)
    shown: list[ws.Section] = []
    for heading, groups in sections.items():
        kinds = [(kind, keys) for group in groups for kind, keys in group.items()]
        panels = [panel for kind, keys in kinds for panel in KINDS[kind](keys)]
        for number, panel in enumerate(panels):
            panel._id = _digest(name, heading, str(number))
        shown.append(ws.Section(name=heading, panels=panels, is_open=True))
    tags = sorted({experiment, *STUDY.experiments[experiment].sweeps})
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"implicit EM: {experiment}",
        sections=shown,
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=ws.Or(ws.Tags().isin(tags), ws.Metric("JobType") == "summary"),
            groupby=[ws.Config(_in_config(key)) for key in by],
        ),
    )
    workspace._internal_name = internal._url_query_str_to_internal_name(name)
    return workspace


def _digest(*parts: str) -> str:
    """Return a name like W&B's random ones, but the same for the same parts."""
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:11]


def _in_config(key: str) -> str:
    """Return the path of a setting in W&B, which nests each group under ``value``."""
    group, _, rest = key.partition(".")
    return f"{group}.value.{rest}"


def _curves(keys: Sequence[str], **options: Any) -> list[Panel]:
    options |= {"groupby_rangefunc": "minmax", **OVER_SEEDS}
    return [wr.LinePlot(title=key, x="epoch", y=[key], **options) for key in keys]


def _bars(keys: Sequence[str]) -> list[Panel]:
    options = {"groupby_rangefunc": "stddev", **OVER_SEEDS}
    return [wr.BarPlot(title=key.replace("_", " "), metrics=[key], **options) for key in keys]


def _scatter(keys: Sequence[str]) -> list[Panel]:
    x, y = keys
    title = f"{y} over {x}".replace("_", " ")
    return [wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y))]


def _images(keys: Sequence[str]) -> list[Panel]:
    return [wr.MediaBrowser(title=", ".join(keys), media_keys=list(keys), num_columns=2)]


KINDS: Mapping[str, Callable[[Sequence[str]], list[Panel]]] = {
    "curves": _curves,
    "log_curves": lambda keys: _curves(keys, log_x=True),
    "bars": _bars,
    "scatter": _scatter,
    "images": _images,
}
"""Functions from keys to panels, by the name of a kind of panel in ``views.yaml``."""
