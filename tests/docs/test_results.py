"""The pages on results: what of a study is committed, and what a section has."""

import runpy

import numpy as np
from helpers.paths import ROOT
from PIL import Image

DOCS = ROOT / "docs"
PUBLISH = runpy.run_path(str(DOCS / "publish.py"))


def test_a_study_is_copied_without_pdfs_html_and_runs_and_its_pictures_shrink(tmp_path):
    study, into = tmp_path / "study", tmp_path / "docs"
    kept = ["part/report.md", "part/findings.json", "part/tables/a.csv"]
    left = ["part/report.html", "part/figures/a.pdf", "part/runs/1/metrics.json", "note.txt"]
    for name in [*kept, *left]:
        (study / name).parent.mkdir(parents=True, exist_ok=True)
        (study / name).write_text(name)
    noise = np.random.default_rng(0).integers(0, 256, (40, 2800, 3), dtype=np.uint8)
    noise[:, :400] = 238, 119, 51  # an area of one colour
    Image.fromarray(noise).save(study / "part/figures/a.png")

    PUBLISH["publish"](study, into)
    written = {str(path.relative_to(into)) for path in into.rglob("*") if path.is_file()}
    assert written == {*kept, "part/figures/a.png"}
    with Image.open(into / "part/figures/a.png") as picture:
        assert (picture.mode, picture.size) == ("P", (1400, 20))
        assert picture.convert("RGB").getpixel((50, 10)) == (238, 119, 51)


def test_the_committed_pictures_are_small_already():
    pictures = sorted(DOCS.rglob("*.png"))
    assert pictures
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.mode == "P", path
            assert picture.width <= PUBLISH["WIDTH"], path
