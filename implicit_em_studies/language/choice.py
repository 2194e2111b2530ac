"""The choice of settings: by the error at several L0, in grids that are extended once."""

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from implicit_em_studies.language.protocol import REACHED
from implicit_em_studies.shared.planning import Setting


def choose(tuning: pd.DataFrame) -> pd.DataFrame:
    """Return the best setting of each family: that of the least mean log FVU over the L0.

    The FVU is that of the own decoder or, without one, of a ridge decoder. A setting has to reach
    every L0; it may miss one only if all of its family's do, because more active units would help
    it.

    Args:
        tuning: one row per setting and L0, with ``family``, ``settings``, ``run``, ``fvu``,
            ``ridge_fvu``, ``l0`` and ``l0_reached``; the FVU of runs that diverged are null.

    Returns:
        One row per family: ``run`` is the first of the setting's runs, ``fvu`` the geometric mean.
    """
    log_fvu = np.log(tuning["fvu"].fillna(tuning["ridge_fvu"]))
    rows = tuning.assign(log_fvu=log_fvu, reached=tuning[REACHED].eq(True))
    settings = rows.groupby(["family", "settings"], sort=False).agg(
        run=("run", "first"),
        fvu=("log_fvu", lambda own: np.exp(own.mean(skipna=False))),
        l0=("l0", lambda own: ", ".join(map("{:.1f}".format, own))),
        reached=("reached", "all"),
    )
    known = settings.reset_index().dropna(subset="fvu")
    by_family = known["reached"].groupby(known["family"])
    fair = known[known["reached"] | ~by_family.transform("any")]
    return fair.loc[fair.groupby("family", sort=False)["fvu"].idxmin()].reset_index(drop=True)


def beyond(settings: Sequence[Setting], one: Setting) -> list[Setting]:
    """Return the settings next to one that stands at ends of its family's numeric axes.

    For each such axis it is one value further, by the ratio of the last two; the other axes keep
    the values of the setting.
    """
    found = []
    for key, own in one.axes.items():
        values: list[float] = []
        with suppress(ValueError):  # an axis of options has no ends
            values = sorted({float(s.axes[key]) for s in settings if s.family == one.family})
        if len(values) > 1 and float(own) in (values[0], values[-1]):
            near = values[1] if float(own) == values[0] else values[-2]
            further = float(f"{float(own) ** 2 / near:.6g}")
            cfg = one.cfg.copy()
            OmegaConf.update(cfg, key, further)
            found.append(Setting(one.family, {**one.axes, key: f"{further:g}"}, cfg))
    return found
