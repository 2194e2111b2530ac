"""``implicit-em dashboard``: create the W&B dashboards or update them."""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from omegaconf import OmegaConf

from implicit_em.base.arguments import Parser
from implicit_em.base.errors import ConfigError, RunError, one_line
from implicit_em.training.tracking import wandb_mode
from implicit_em_studies.shared.study import add_conf


def main(arguments: Sequence[str] | None = None) -> int:
    """Create, update or print the dashboards; return the same exit codes as ``train.py``."""
    parser = Parser(
        prog="implicit-em dashboard",
        description="Create the W&B dashboards of the study, or update existing ones.",
    )
    parser.add_argument("--entity", help="default: that of conf/logger/wandb.yaml, or your own")
    parser.add_argument("--project", help="default: that of conf/logger/wandb.yaml")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, as JSON")
    add_conf(parser)

    def run(options: argparse.Namespace) -> None:
        file = options.conf / "logger" / "wandb.yaml"
        if not file.exists():
            raise ConfigError(f"conf={options.conf}: no logger/wandb.yaml there; name the folder")
        logger: Any = OmegaConf.load(file)
        entity, project = (options.entity or logger.entity), (options.project or logger.project)
        views = _views()
        if options.dry_run:
            found = views.dashboards(entity or "", project)
            print(json.dumps([views.specification(view) for view in found], indent=2))
        else:
            _publish(views, entity, project)

    return parser.run(arguments, run)


def _views() -> Any:
    if find_spec("wandb_workspaces") is None:
        raise ConfigError('the dashboards need wandb-workspaces: pip install -e ".[dashboard]"')
    from implicit_em_studies.dashboard import views

    return views


def _publish(views: Any, entity: str | None, project: str) -> None:
    import wandb

    mode, reason = wandb_mode()
    if mode != "online":
        raise ConfigError(f"W&B is {mode} ({reason}): run wandb login first, or add --dry-run")
    try:
        for view in views.dashboards(entity or wandb.Api().default_entity, project):
            print(f"{view.name}: {views.publish(view)}")
    except Exception as error:
        raise RunError(f"W&B: {one_line(error)}") from error


if __name__ == "__main__":
    sys.exit(main())
