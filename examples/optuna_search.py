"""Let Optuna choose the settings of runs: ``python examples/optuna_search.py``.

Each trial is a run with a directory of its own. It is measured on images held out of the training
set, so that the test set chooses nothing. The same command goes on with a search that was stopped:
Optuna chooses the same trials again by its seed, and runs that are complete are reused.
"""

from pathlib import Path

import optuna

import implicit_em
from implicit_em.base.errors import RunError
from implicit_em.config.composing import composed

TRIALS = 8
DIRECTORY = Path("outputs/optuna")
FIXED = ["trainer.max_epochs=5", "data.val_size=10000", "data.final=validation", "logger=csv"]
"""Settings of all trials, as they are typed after ``implicit-em train``."""


def probe_accuracy(trial: optuna.Trial) -> float:
    """Train with the settings of a trial and return the number to maximise."""
    trial.suggest_float("lr.value", 1e-4, 1e-2, log=True)
    trial.suggest_categorical("activation", ["relu", "softplus"])
    chosen = [f"{key}={value}" for key, value in trial.params.items()]
    metrics = implicit_em.train(composed("train", FIXED + chosen), DIRECTORY / ",".join(chosen))
    return metrics["probe_accuracy"]


def main() -> None:
    """Search, and print the settings of the best trial."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(probe_accuracy, n_trials=TRIALS, catch=(RunError,))
    print(f"best: {study.best_params}, probe accuracy {study.best_value:.4f}")


if __name__ == "__main__":
    main()
