"""Two houses and a wing: the framework knows neither its studies nor its wing for language models.

`make lint` runs these tests: import-linter sees imports, but no name in a YAML.
"""

import re

import pytest
from helpers.paths import CONF, ROOT, STUDIES_CONF
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

FRAMEWORK, STUDIES = ROOT / "implicit_em", ROOT / "implicit_em_studies"
WING = FRAMEWORK / "language"


def test_no_file_of_the_framework_names_a_study():
    modules = {
        ".".join(path.relative_to(STUDIES).with_suffix("").parts[-2:])
        for path in STUDIES.glob("*/*.py")
        if path.stem != "__init__"
    }
    assert "theory.volume" in modules
    named = re.compile(r"implicit_em_studies|\b(" + "|".join(map(re.escape, modules)) + r")\b")
    for path in FRAMEWORK.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            found = named.search(path.read_text(errors="ignore"))
            assert not found, f"{path}: {found[0]}"


def test_no_configuration_outside_of_the_wing_names_the_wing():
    files = [path for folder in (FRAMEWORK, STUDIES) for path in folder.rglob("*.yaml")]
    outside = [path for path in files if WING not in path.parents]
    assert {WING / "conf" / "harvest.yaml"} <= {*files} - {*outside}
    named = re.compile(r"implicit_em[./]language")
    assert [path for path in outside if named.search(path.read_text())] == []


@pytest.mark.parametrize("folder", [CONF, ROOT / "conf"], ids=["package", "link"])
def test_hydra_finds_wing_and_studies_beside_the_frameworks_own_configuration(folder):
    with initialize_config_dir(str(folder), version_base="1.3"):
        assert compose("train", overrides=["callbacks=trajectory"]).callbacks.trajectory
        assert compose("harvest").lm
        assert "ablation" in GlobalHydra.instance().config_loader().get_group_options("experiment")


def test_hydra_finds_no_study_beside_another_configuration(tmp_path):
    (tmp_path / "train.yaml").touch()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        paths = [
            e.path for e in GlobalHydra.instance().config_loader().get_search_path().get_path()
        ]
    assert not any(str(STUDIES_CONF) in path for path in paths)
