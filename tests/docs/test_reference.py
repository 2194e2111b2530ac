"""What the reference says of the configuration, the metrics and the package."""

import re
import runpy
import tomllib
from pathlib import Path
from pkgutil import resolve_name

import pytest
from helpers.paths import ROOT

import implicit_em
from implicit_em import data, losses, metrics, models

CONFIGURATION = runpy.run_path(str(ROOT / "docs/hooks/configuration.py"))
FILES = [file for conf in CONFIGURATION["CONFS"] for file in sorted(conf.rglob("*.yaml"))]


@pytest.fixture(scope="module")
def reference():
    return CONFIGURATION["reference"]()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_says_what_it_is_for_and_is_in_the_reference(file, reference):
    assert CONFIGURATION["purpose"](file).endswith(".")
    package, _, place = str(file.relative_to(ROOT)).partition("/conf/")
    group = place.rpartition("/")[0]
    hydras_own = group in ("hydra/hydra_logging", "hydra/job_logging", "hydra/launcher/common")
    if group and not hydras_own:
        assert f"### {group}={file.stem}\n" in reference
    elif package == "implicit_em_studies":
        assert f"```yaml\n{file.read_text()}```\n" in reference


def test_a_key_has_its_default_and_its_comment(reference):
    assert "- `model.hidden=64`: number of components K\n" in reference
    assert "- `optimizer.betas=[0.9, 0.999]`\n" in reference
    assert "- `probe=linear`: Linear probe on the trained features: linear | none\n" in reference
    assert "Builds on `loss=topk`." in reference


@pytest.mark.parametrize("package", [losses, models, metrics, data], ids=lambda p: p.__name__)
def test_every_public_function_and_class_has_its_place(package):
    page = (ROOT / f"docs/reference/api-{package.__name__.rpartition('.')[2]}.md").read_text()
    shown = re.findall(rf"^::: {package.__name__}\.(\w+)$", page, re.MULTILINE)
    public = [
        name
        for name, value in vars(package).items()
        if callable(value) and name[0] != "_" and value.__module__.startswith(package.__name__)
    ]
    assert sorted(shown) == sorted(public)


def test_the_page_on_architecture_shows_the_layers_that_the_linter_holds():
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    diagram = page.partition("```text\n")[2].partition("```")[0]
    shown = [set(names.split(", ")) for names in re.findall(r"^  (\w.*?)(?:  |$)", diagram, re.M)]
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    framework, studies = (c["layers"] for c in tool["contracts"] if c["type"] == "layers")
    assert shown == [set(layer.split(" | ")) for layer in [*studies, *framework]]


def test_equations_become_mathml_and_pages_load_nothing_from_elsewhere(tmp_path):
    equations = runpy.run_path(str(ROOT / "docs/hooks/equations.py"))
    page = r'<p><span class="arithmatex">\(r_j = \exp(-E_j)\)</span></p>'
    assert equations["on_page_content"](page).startswith("<p><math")

    offline = runpy.run_path(str(ROOT / "docs/hooks/offline.py"))
    Path(tmp_path / "page.html").write_text('<a href="https://a.org">a</a><img src="b.png">')
    offline["on_post_build"]({"site_dir": tmp_path})
    Path(tmp_path / "page.html").write_text('<script src="https://a.org/b.js"></script>')
    with pytest.raises(Exception, match=r"loads https://a\.org/b\.js"):
        offline["on_post_build"]({"site_dir": tmp_path})


NAMED = sorted(
    {
        name
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    }
)


@pytest.mark.parametrize("named", NAMED)
def test_what_the_reference_names_is_there(named):
    assert callable(resolve_name(named))


def test_what_the_package_lacks_is_no_attribute():
    with pytest.raises(AttributeError, match="module 'implicit_em' has no attribute 'nothing'"):
        _ = implicit_em.nothing
