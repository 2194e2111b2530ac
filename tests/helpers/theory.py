"""Made-up results of the theory study's experiments, and changes that flip their verdicts."""

import pandas as pd

SEEDS = (1, 2, 3)
UNITS = ("ReLU", "Softplus", "Abs", "Square")
OTHERS = UNITS[1:]


def lse():
    """What the experiment would measure if every answer were yes."""
    ones = {"activation": "ReLU", "weight": 1.0, "temperature": 1.0}
    standing = {"below": 0.01, "above": 0.9, "soft_explains": 0.99, "count_explains": 0.95}
    regimes = [
        ones | standing | {"decay": decay, "seed": seed, "l1_explains": 0.3 + 0.01 * seed}
        for decay in (0.0, 0.1)
        for seed in SEEDS
    ]
    said = {"perplexity": 20.0, "perplexity_share": 0.3, "purity_most": 0.4, "weight": 1.0}
    responsibilities = [
        said
        | {"activation": activation, "decay": 0.1, "temperature": temperature, "seed": seed}
        | {"information": 0.6 if temperature < 1 else 0.1}
        | {"probe_accuracy": 0.94, "probe_at_one": 0.94 + 0.001 * seed}
        | {"purity_least": (0.2 if activation == "ReLU" else 0.5) + 0.001 * seed}
        for activation in UNITS
        for temperature in (0.1, 1.0)
        for seed in SEEDS
    ]
    return {"regimes": pd.DataFrame(regimes), "responsibilities": pd.DataFrame(responsibilities)}


def reconstruction():
    """What the experiment would measure if every answer were yes."""
    probes = {
        "l1": 0.940,
        "placed": 0.938,
        "random": 0.925,
        "derived": 0.930,
        "derived_decay": 0.9405,
        "hybrid_100": 0.926,
        "hybrid_10000": 0.935,
        "hybrid_100_decay": 0.941,
        "hybrid_10000_decay": 0.945,
    }
    rows = [
        {"variant": variant, "target": target, "seed": seed, "density": target}
        | {"probe_accuracy": probe + 1e-4 * seed * (number % 3)}
        | {"probe_equal": probe - 0.01 + 1e-4 * seed * (number % 3), "ridge_fvu": 2 - 2 * probe}
        for number, (variant, probe) in enumerate(probes.items())
        for target in (0.2, 0.3)
        for seed in SEEDS
    ]
    return {"runs": pd.DataFrame(rows)}


def anomaly():
    """What the experiment would measure if every answer were yes."""
    levels = {"today": 0.9, "decay": 0.9, "today_active": 0.7, "sae": 0.6}
    rows = [
        {"method": method, "kind": kind, "task": task, "seed": seed}
        | {"auroc": levels.get(method, 0.8) + 0.001 * seed}
        for method in (*levels, "gmm", "kmeans", "forest")
        for kind, task in (("fashion", "fashion"), ("digit", "0"), ("corrupted", "blur"))
        for seed in SEEDS
    ]
    return {"aurocs": pd.DataFrame(rows)}


def changed(experiment, table, column, value, **where):
    """Return a function that sets a column where others have one of some values."""

    def change(found):
        frame = found[experiment][table]
        rows = pd.Series(True, frame.index)
        for key, wanted in where.items():
            rows &= frame[key].isin(wanted if isinstance(wanted, tuple) else (wanted,))
        found[experiment][table] = frame.assign(**{column: frame[column].mask(rows, value)})
        return found

    return change


def _said(column, value, **where):
    return changed("lse", "responsibilities", column, value, **where)


def _auroc(value, **where):
    return changed("anomaly", "aurocs", "auroc", value, **where)


def _reconstructed(column, value, **where):
    return changed("reconstruction", "runs", column, value, **where)


FLIPS = [
    (
        "the_lead_is_in_directions",
        "partly",
        _reconstructed("probe_equal", 0.9, variant="l1", target=0.2),
    ),
    ("the_lead_is_in_directions", "no", _reconstructed("probe_equal", 0.9, variant="l1", seed=1)),
    ("the_lead_is_in_directions", "no", _reconstructed("probe_accuracy", 0.95, variant="derived")),
    (
        "decay_closes_the_gap",
        "partly",
        _reconstructed("probe_accuracy", 0.93, variant="derived_decay", target=0.3),
    ),
    ("decay_closes_the_gap", "no", _reconstructed("probe_accuracy", 0.95, variant="l1", seed=2)),
    (
        "the_hybrid_beats_l1",
        "partly",
        _reconstructed("probe_accuracy", 0.94, variant="hybrid_10000_decay", target=0.2),
    ),
    ("the_hybrid_beats_l1", "no", _reconstructed("probe_accuracy", 0.95, variant="l1", seed=2)),
    (
        "the_probe_follows_the_variance",
        "partly",
        _reconstructed("ridge_fvu", 0.01, variant=("random", "hybrid_100", "derived"), target=0.3),
    ),
    ("the_probe_follows_the_variance", "no", _reconstructed("ridge_fvu", 0.01, variant="random")),
    ("lse_counts", "partly", changed("lse", "regimes", "count_explains", 0.8, decay=0, seed=2)),
    ("lse_counts", "no", changed("lse", "regimes", "l1_explains", 0.97, decay=0, seed=1)),
    ("lse_counts", "yes", changed("lse", "regimes", "count_explains", 0.8, decay=0.1)),
    ("lse_counts", "no", changed("lse", "regimes", "count_explains", 0.2, decay=0, seed=3)),
    ("a_temperature_gives_meaning", "partly", _said("information", 0.4, activation="ReLU", seed=3)),
    ("a_temperature_gives_meaning", "partly", _said("perplexity_share", 0.6, activation="ReLU")),
    ("a_temperature_gives_meaning", "partly", _said("probe_at_one", 0.99, activation="ReLU")),
    ("a_temperature_gives_meaning", "partly", _said("probe_at_one", None, activation="ReLU")),
    ("a_temperature_gives_meaning", "no", _said("information", 0.4)),
    ("a_temperature_gives_meaning", "no", _said("probe_accuracy", 0.9)),
    ("low_energy_is_a_match", "partly", _said("purity_most", 0.6)),
    ("low_energy_is_a_match", "yes", _said("purity_most", 0.6, activation=("Abs", "Square"))),
    ("low_energy_is_a_match", "no", _said("purity_least", 0.15, activation=OTHERS, seed=2)),
    ("evidence_beats_references", "yes", _auroc(0.95, method="gmm", kind="fashion")),
    ("evidence_beats_references", "partly", _auroc(0.95, method="gmm", kind=("fashion", "digit"))),
    ("evidence_beats_references", "no", _auroc(0.95, method="sae")),
    ("evidence_beats_references", "no", _auroc(0.5, method="today", seed=2)),
    ("evidence_with_decay_beats_references", "partly", _auroc(0.95, kind=("fashion", "digit"))),
    ("evidence_with_decay_beats_references", "no", _auroc(0.5, method="decay")),
    (
        "evidence_beats_the_count",
        "partly",
        _auroc(0.95, method="today_active", kind=("digit", "corrupted")),
    ),
    ("evidence_beats_the_count", "no", _auroc(0.95, method="today_active")),
]
