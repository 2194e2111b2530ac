"""A mistake in what is asked of a study; rows of one study hold what all protocols share."""

import shlex

import pytest
from helpers.lines import one_line

from implicit_em_studies.comparison.study import STUDY as COMPARE
from implicit_em_studies.language.study import STUDY as LANGUAGE
from implicit_em_studies.paper.study import STUDY as REPRODUCE
from implicit_em_studies.recovery.study import STUDY as RECOVER

STUDIES = {study.name: study for study in (REPRODUCE, COMPARE, RECOVER, LANGUAGE)}
ONE = "families=[derived] grids.derived='{axes: {loss.lse.weight: 1}}'"
SMALL = "families=[derived] toy_families=[derived] middle.data.features=12 middle.data.width=6"
ASKED = "by: kl, below: 1, places: {minilm: 1}"
MISTAKES = [
    ("reproduce ablations", "ablations: no such experiment; allowed: theorem, ablation, benchmark"),
    ("reproduce lr.valu=1", "lr.valu=1: no such key; did you mean lr.value?"),
    ("reproduce ablation trainer.max_epochs=-1", "trainer.max_epochs=-1: "),
    ("reproduce ablation loss=lse", "loss=lse: the experiments set loss themselves"),
    ("reproduce dynamics model.hidden=32", "model.hidden=32: the experiments set model.hidden"),
    ("reproduce theorem hydra.sweeper.params=null", "hydra.sweeper.params=null: the experiments s"),
    ("compare cifar", "cifar: no such part or family; allowed: mnist, fashion_mnist, equal_width"),
    ("compare seeds=[]", "seeds=[]: must not be empty"),
    ("compare seeds=1", "seeds=1: must be a list, [VALUE, ...]"),
    ("compare seeds=[1", "seeds=[1: "),
    ("compare densities=[0.1,2]", "densities.1=2: "),
    ("compare seeds=[1,1]", "seeds=[1, 1]: each must be there once"),
    ("compare seed=7", "seed=7: the protocol sets it; allowed: tuning.seed, seeds"),
    (
        "compare trainer.max_epochs=2",
        "trainer.max_epochs=2: the protocol sets it; allowed: tuning.trainer.max_epochs, "
        "finals.trainer.max_epochs",
    ),
    ("compare tuning.data.final=test", "tuning.data.final=test: must be validation"),
    ("compare parts.mnist={}", "parts.mnist: must be a plain name, and not a data set's"),
    (
        f"compare equal_parameters {ONE} parts.equal_parameters.widths='{{derivd: 32}}'",
        "parts.equal_parameters.widths={derivd: 32}: no family or control; allowed: batch",
    ),
    ("compare parts.decay_64.also=[l1]", "parts.decay_64.also=l1: is among families or controls"),
    ("compare grids.topk.axes=3", "grids.topk={'model': 'topk', 'axes': 3}: axes must be a map"),
    ("recover 'grids.l1={axes: {model.l0: [2,4]}}'", "grids.l1={'axes': {'model.l0': [2, 4]}}: "),
    ("reproduce theorem optimizer=3", "optimizer=3: optimizer takes the name of an option; allow"),
    ("compare parts.decay_64.grids=nowhere", "parts.decay_64.grids=nowhere: must be a mapping"),
    ("compare parts.decay_46.width=3", "parts.decay_46.width=3: parts has no decay_46; did you me"),
    ("compare parts.equal_width=3 parts.equal_width.width=3", "parts.equal_width.width=3: parts."),
    (f"compare finals.trainer.max_epochs=five {ONE} equal_width", "trainer.max_epochs=five: "),
    ("compare reference=topk families=[l1]", "reference=topk: must be one of families=[l1]"),
    ("compare width.k=3", "width.k=3: width has no k"),
    ("compare families=[derived,none]", "none: has no grid; allowed: derived, "),
    (f"compare tuning.lr.valu=1 {ONE}", "lr.valu=1: no such setting; did you mean lr."),
    ("compare famlies=[derived]", "famlies=[derived]: no such key; did you mean families?"),
    ("compare data=kmnist", "data=kmnist: the protocol sets it; allowed: datasets"),
    ("compare model.hidden=8", "model.hidden=8: the protocol sets it; allowed: width, parts"),
    ("compare finals.model.hidden=8", "finals.model.hidden: the protocol sets it; allowed: width"),
    ("compare tuning.probe=none", "tuning.probe=none: must be linear"),
    ("compare width=16 families=[derived,topk] equal_width", "model.l0=19: must be at most "),
    ("compare model=topk families=[l1] reference=l1", "model=topk: the experiments set model"),
    (f"compare always.data.val_size=0 {ONE}", "data.final=validation: needs val_size"),
    ("compare parts.decay_64.grids='{foo: {}}'", "parts.decay_64.grids.foo: allowed: derived, "),
    ("recover usual l1", "l1: no family of usual; allowed: derived, topk, "),
    ("recover model.hidden=8", "model.hidden=8: the protocol sets it; allowed: variations"),
    ("recover cells.toys={}", "toys: must be a plain name of one cell, and none of cells"),
    ("recover toy_families=[nobody]", "toy_families=nobody: allowed: derived, "),
    ("recover middle.seed=3", "few_features.seed: a cell cannot set it; a stage does"),
    ("recover criteria='{blind: l0}'", "criteria: must be blind and truth"),
    ("recover criteria.blind=-persuit_l0", "criteria.blind=-persuit_l0: allowed, also with a min"),
    ("recover middle={}", "middle.data.features: missing"),
    (f"recover middle.data.featurs=3 {SMALL}", "data.featurs=3: no such setting"),
    (f"recover middle.data.density=2 {SMALL}", "data.density=2: "),
    ("language nowhere", "nowhere: no such part or family; allowed: minilm, smollm2, and fam"),
    ("language tuning.model.l0=7", "tuning.model.l0: the protocol sets it; allowed: l0, tuned_at"),
    ("language finals.model.l0=7", "finals.model.l0: the protocol sets it; allowed: l0"),
    ("language tuned_at=[7]", "tuned_at=7: allowed: 16, 32, 64, 128"),
    ("language l0=[32]", "l0=[32]: must be two or more"),
    ("language 'variants={x: {of: nobody}}'", "variants.x.of=nobody: allowed: spike_slab, "),
    ("language 'variants={x: {}}'", "variants.x.of=None: allowed: spike_slab, "),
    ("language 'variants={l1: {of: topk}}'", "variants.l1: is the name of a family"),
    ("language halved=[nobody]", "halved=nobody: allowed: spike_slab, "),
    ("language 'targets=[{of: [topk], over: l1}]'", "targets.0.by: missing"),
    (f"language 'targets=[{{of: [nobody], over: l1, {ASKED}}}]'", "targets[0]=nobody: allowed: s"),
    (
        "language 'targets=[{of: [topk], over: l1, by: kl, below: 1, places: {bert: 1}}]'",
        "targets[0].places=bert: allowed: minilm, smollm2",
    ),
    ("language parts.minilm.causal=perhaps", "parts.minilm.causal=perhaps: allowed: true, false"),
    ("language parts.minilm.model.hidden=-3", "model.hidden=-3: should be greater than 0"),
]


@pytest.mark.parametrize(("typed", "message"), MISTAKES)
def test_a_mistake_gives_one_line_before_anything_is_written(
    typed, message, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    study, *words = shlex.split(typed)
    assert STUDIES[study].main([*words, "--directory", "trial"]) == 2
    assert one_line(capfd).startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())
