"""The runs of the comparison: those of a part at its widths, and those of the knobs."""

import json
from collections.abc import Sequence

from implicit_em_studies.comparison.protocol import DERIVED, Protocol
from implicit_em_studies.shared import protocol as study_protocol
from implicit_em_studies.shared import stages
from implicit_em_studies.shared.runs import Place, Run
from implicit_em_studies.shared.stages import Setting


class Stages(stages.Stages[Protocol]):
    """The runs of each stage of a part on one data set."""

    def own(self, family: str) -> dict[str, int]:
        """Return the number of units K that a family has in this part."""
        return {"model.hidden": self.protocol.width_of(self.part, family)}

    def knobs(self) -> list[Run]:
        """Return the runs of the knobs, as those of the derived grid, but once per seed."""
        runs: dict[str, Run] = {}
        for knob, axes, cfg in self.settings:
            for seed in self.protocol.seeds:
                run = self.run(DERIVED, axes, cfg, {**self.protocol.tuning, "seed": seed})
                run.places = []
                runs.setdefault(run.fingerprint, run).places.append(Place(knob, axes))
        return list(runs.values())


def digest(protocol: Protocol, part: str, settings: Sequence[Setting]) -> str:
    """Return a digest of a part of a protocol with all its settings and controls."""
    fixed = json.dumps(protocol.deciding(part), sort_keys=True)
    return study_protocol.digest((setting.cfg for setting in settings), fixed)
