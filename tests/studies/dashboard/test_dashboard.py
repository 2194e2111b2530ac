"""The W&B dashboards: what is sent, over which keys, and that there is one of each."""

import json
import sys

import pytest
from helpers.lines import one_line
from helpers.paths import ROOT
from helpers.wandb_server import ENTITY, inspect
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from wandb_workspaces.workspaces import Workspace, internal

from implicit_em.metrics.feature_grid import save_figure
from implicit_em.training.run import train
from implicit_em_studies.dashboard.__main__ import main
from implicit_em_studies.dashboard.views import specification
from implicit_em_studies.paper.study import STUDY
from implicit_em_studies.shared.report import log_summary

CONF = ["--conf", str(ROOT / "conf")]
NAMES = ["ablation", "benchmark", "dynamics", "features"]


@pytest.fixture
def printed(capsys):
    """Return what ``--dry-run`` prints, read."""

    def printed(*arguments):
        capsys.readouterr()
        assert main(["--dry-run", *CONF, *arguments]) == 0
        return json.loads(capsys.readouterr().out)

    return printed


def panels(view):
    for section in view["spec"]["section"]["panelBankConfig"]["sections"]:
        yield from section["panels"]


def test_the_specification_is_what_the_packages_own_models_hold(printed):
    views = printed("--entity", "somebody")
    assert [view["displayName"] for view in views] == [f"implicit EM: {name}" for name in NAMES]
    assert len({view["name"] for view in views}) == len(NAMES)
    project = OmegaConf.load(ROOT / "conf/logger/wandb.yaml").project
    for view in views:
        assert (view["entity"], view["project"]) == ("somebody", project)
        workspace = Workspace._from_model(internal.View.model_validate(view))
        workspace.runset_settings.groupby = list(workspace.runset_settings.groupby)
        assert specification(workspace) == view
    assert printed("--entity", "somebody") == views, "the same each time"
    elsewhere = printed("--entity", "else", "--project", "other")
    assert {(view["entity"], view["project"]) for view in elsewhere} == {("else", "other")}
    assert not {view["name"] for view in elsewhere} & {view["name"] for view in views}


def test_every_key_of_a_panel_is_one_that_a_run_logs(composed, small, printed, tmp_path):
    history, values, images, settings = {"epoch"}, set(), set(), {}
    online = ["logger=wandb", "logger.mode=offline", "picture=true"]
    for name, choice in (("encoder", "callbacks=trajectory"), ("sae", "model=sae")):
        train(composed(*small, *online, "metrics_every=1", choice), tmp_path / name)
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        header = (tmp_path / name / "history.csv").read_text().splitlines()[0]
        read = read_run(tmp_path / name)
        assert {key for key, value in metrics.items() if value is not None} <= {
            key.partition(".")[0] for key in read["summary"]
        }
        values |= set(metrics)
        history |= set(header.split(",")) & set(read["summary"])
        images |= pictures(read)
        settings |= flatten(read["config"])
    (tmp_path / "study" / "figures").mkdir(parents=True)
    for experiment in STUDY.experiments.values():
        for name in experiment.pictures:
            save_figure(Figure(), tmp_path / "study" / "figures" / f"{name}.png")
    log_summary(composed(*online), tmp_path / "study", {}, {}, None)
    images |= pictures(read_run(tmp_path / "study"))

    for view in printed():
        shown = {"curves": set(), "values": set(), "images": set()}
        for panel in panels(view):
            config = panel["config"]
            match panel["viewType"]:
                case "Run History Line Plot":
                    shown["curves"] |= {config["xAxis"], *config["metrics"]}
                case "Bar Chart":
                    shown["values"] |= set(config["metrics"])
                case "Scatter Plot":
                    axes = (config["xAxis"], config["yAxis"])
                    shown["values"] |= {axis.removeprefix("summary:") for axis in axes}
                case "Media Browser":
                    shown["images"] |= set(config["mediaKeys"])
                case other:
                    raise AssertionError(other)
        assert shown["curves"] <= history
        assert shown["values"] <= values
        assert shown["images"] <= images
        (runs,) = view["spec"]["section"]["runSets"]
        for group in runs["grouping"]:
            first, value, rest = group["name"].split(".", 2)
            assert (group["section"], value) == ("config", "value")
            assert f"{first}.{rest}" in settings


def read_run(directory):
    (file,) = directory.glob("wandb/offline-run-*/*.wandb")
    return json.loads(inspect(file, "--summary"))


def pictures(read):
    kinds = {k: v.get("_type", "") for k, v in read["summary"].items() if isinstance(v, dict)}
    return {key for key, kind in kinds.items() if kind.startswith("images")}


def flatten(value, prefix=""):
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, item in value.items()
        for key, leaf in flatten(item, f"{prefix}.{name}" if prefix else name).items()
    }


def test_a_dashboard_is_over_the_runs_of_its_experiment(printed):
    for view, name in zip(printed(), NAMES, strict=True):
        (runs,) = view["spec"]["section"]["runSets"]
        by_tag, study = runs["filters"]["filters"]
        assert by_tag["key"]["name"] == "tags"
        assert set(by_tag["value"]) == {name, *STUDY.experiments[name].sweeps}
        assert (study["key"]["name"], study["value"], study["connector"]) == (
            "jobType",
            "summary",
            "OR",
        )


@pytest.mark.slow
def test_run_twice_there_is_one_of_each(server, capsys):
    assert main(CONF) == 0
    first = {key: view["spec"] for key, view in server.views.items()}
    shown = capsys.readouterr().out.splitlines()
    assert [line.partition(": http")[0] for line in shown] == [f"implicit EM: {n}" for n in NAMES]
    assert {view["entityName"] for view in server.views.values()} == {ENTITY}
    for view in server.views.values():
        view["spec"] = json.dumps({"edited": "there"})
    assert main(CONF) == 0
    assert {key: view["spec"] for key, view in server.views.items()} == first
    assert len(first) == len(NAMES)


@pytest.mark.parametrize("fault", [401, pytest.param("gone", marks=pytest.mark.slow)])
def test_a_server_that_refuses_gives_one_line(fault, server, capsys):
    server.fault = fault
    assert main(CONF) == 1
    assert one_line(capsys).startswith("error: W&B: ")


def test_without_an_account_a_line_says_what_can_be_done(capsys):
    assert main(CONF) == 2
    assert one_line(capsys) == (
        "error: W&B is offline (not logged in): run wandb login first, or add --dry-run\n"
    )


def test_without_the_package_a_line_says_what_to_install(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith("wandb_workspaces")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "implicit_em_studies.dashboard.views")
    monkeypatch.delattr("implicit_em_studies.dashboard.views")
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["--dry-run", *CONF]) == 2
    assert "wandb-workspaces" in (line := one_line(capsys))
    assert 'pip install -e ".[dashboard]"' in line


def test_elsewhere_than_in_the_repository_a_line_says_so(tmp_path, capsys):
    assert main(["--dry-run", "--conf", str(tmp_path)]) == 2
    assert "logger/wandb.yaml" in one_line(capsys)
