"""The dashboards: saved views of a W&B project, over keys that its runs log."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
from wandb_workspaces.workspaces import internal

from implicit_em.engine.modules import DERIVED_LOSS, SAE_LOSS
from implicit_em.metrics.energies import CURVES
from implicit_em_studies.paper.study import STUDY

MONITORED = [f"monitor/{name}" for name in CURVES]
Panels = Sequence[wr.LinePlot | wr.BarPlot | wr.ScatterPlot | wr.MediaBrowser]

DERIVED = ("train/loss", *(f"train/{term}" for term in DERIVED_LOSS))
MOST_RUNS = 100  # most runs that a panel shows; W&B's default is 10
OVER_SEEDS: Any = {"groupby_aggfunc": "mean", "max_runs_to_show": MOST_RUNS}


def dashboards(entity: str, project: str) -> list[ws.Workspace]:
    """Return the four dashboards, each over the runs of one experiment, grouped over the seeds."""
    weights = [f"loss.{term}.weight" for term in DERIVED_LOSS]
    rates = ["optimizer._target_", "optimizer.lr"]
    return [
        _dashboard(entity, project, "ablation", weights, _ablation()),
        _dashboard(entity, project, "benchmark", ["model._target_"], _benchmark()),
        _dashboard(entity, project, "dynamics", rates, _dynamics()),
        _dashboard(entity, project, "features", ["model._target_"], _features()),
    ]


def _ablation() -> dict[str, Panels]:
    return {
        "What each loss leads to": _bars(
            *("dead_units", "silent_units", "redundancy", "responsibility_entropy"),
            *("density", "probe_accuracy", "final_loss"),
        ),
        "Terms of the loss": _curves(*DERIVED),
        "Along training": _curves(*MONITORED),
        "Weight rows": [_images("features")],
    }


def _benchmark() -> dict[str, Panels]:
    return {
        "Encoder against autoencoder": [
            *_bars("probe_accuracy", "density", "parameters", "dead_units"),
            *_bars("silent_units", "reconstruction_mse", "transpose_reconstruction_mse"),
            _scatter("density", "probe_accuracy"),
        ],
        "Terms of the loss": _curves(*DERIVED, *(f"train/{term}" for term in SAE_LOSS)),
        "Along training": _curves(*MONITORED),
        "Weight rows": [_images("features")],
    }


def _dynamics() -> dict[str, Panels]:
    return {
        "Where each rate leads to": [
            *_bars("convergence_epoch", "final_loss", "probe_accuracy", "dead_units"),
            _scatter("final_loss", "probe_accuracy"),
        ],
        "Loss": [*_curves("train/loss"), *_curves("train/loss", log_x=True)],
        "Along training": _curves(*MONITORED),
        "What settles, and what does not": _curves(
            *("trajectory/row_angle", "trajectory/correlation_change"),
            *("trajectory/log_variance", "trajectory/probe_accuracy"),
        ),
    }


def _features() -> dict[str, Panels]:
    return {
        "Weight rows": [_images("features")],
        "How the units are used": _bars(
            *("dead_units", "silent_units", "maximum_responsibility"),
            *("responsibility_entropy", "redundancy", "density"),
        ),
        "Figures of the study": [
            _images(*(f"figures/{name}" for name in STUDY.experiments["features"].pictures))
        ],
    }


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
    entity: str, project: str, experiment: str, by: Sequence[str], sections: Mapping[str, Panels]
) -> ws.Workspace:
    """Return a dashboard of an experiment's runs, which are tagged with it or its sweeps."""
    name = _digest(entity, project, experiment)
    for heading, panels in sections.items():
        for number, panel in enumerate(panels):
            panel._id = _digest(name, heading, str(number))
    tags = sorted({experiment, *STUDY.experiments[experiment].sweeps})
    workspace = ws.Workspace(
        entity=entity,
        project=project,
        name=f"implicit EM: {experiment}",
        sections=[
            ws.Section(name=heading, panels=list(panels), is_open=True)
            for heading, panels in sections.items()
        ],
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


def _curves(*keys: str, **options: Any) -> list[wr.LinePlot]:
    options |= {"groupby_rangefunc": "minmax", **OVER_SEEDS}
    return [wr.LinePlot(title=key, x="epoch", y=[key], **options) for key in keys]


def _bars(*keys: str) -> list[wr.BarPlot]:
    options = {"groupby_rangefunc": "stddev", **OVER_SEEDS}
    return [wr.BarPlot(title=key.replace("_", " "), metrics=[key], **options) for key in keys]


def _scatter(x: str, y: str) -> wr.ScatterPlot:
    title = f"{y} over {x}".replace("_", " ")
    return wr.ScatterPlot(title=title, x=wr.SummaryMetric(x), y=wr.SummaryMetric(y))


def _images(*keys: str) -> wr.MediaBrowser:
    return wr.MediaBrowser(title=", ".join(keys), media_keys=list(keys), num_columns=2)
