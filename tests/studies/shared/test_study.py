"""What every study promises, on a toy: its command, its directory, and what it refuses."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from implicit_em.base.errors import RunError
from implicit_em.config import CONF
from implicit_em_studies.shared.protocol import trial_label
from implicit_em_studies.shared.study import Part, Plan, Study


@dataclass(frozen=True)
class ToyPart(Part):
    directory: Path
    said: list

    def run(self, command, workers):
        page = self.directory / "report.md"
        page.write_text(command)
        self.said.append((command, workers))
        if "fail=1" in command:
            raise RunError("1 of 2 runs failed")
        if "miss=1" in command:
            vars(self)["missed"] = ["as good as another"]
        if "stop=1" in command:
            raise KeyboardInterrupt
        return page


@dataclass(frozen=True, kw_only=True)
class Toy(Study):
    said: list

    def plan(self, request):
        part = ToyPart(request.directory, self.said)
        return Plan(request.words, trial_label(request.changes), lambda: [part])

    def short(self, conf):
        return ["first", "lr.value=1", "seed=1"]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    about = {"purpose": "Play.", "metavar": "WORD", "words": "what", "quick": "a short one"}
    return Toy(
        name="toy", noun="game", directory=Path("results/toy"), needs="train.yaml", said=[], **about
    )


def test_options_may_stand_anywhere_among_the_words(toy):
    typed = ["one", "--workers", "2", "lr.value=1", "--directory", "her e", "two"]
    assert toy.main(typed) == 0
    assert toy.said == [("implicit-em toy one two lr.value=1 --directory 'her e'", 2)]
    assert Path("her e/report.md").exists()


def test_quick_is_short_in_a_directory_of_its_own_and_yields_to_what_is_typed(toy):
    assert toy.main(["--quick", "seed=2", "--workers", "1"]) == 0
    assert toy.main(["--quick", "other", "--directory", "there", "--workers", "1"]) == 0
    assert [said for said, _ in toy.said] == [
        "implicit-em toy first lr.value=1 seed=2 --directory results/toy-quick",
        "implicit-em toy other lr.value=1 seed=1 --directory there",
    ]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--workers", "0"], "workers=0: must be at least 1"),
        (["--conf", "nowhere"], "conf=nowhere: no train.yaml there; name the folder of"),
        (["lr.value=1"], "results/toy is for the protocol alone: name another --directory for a"),
        (["lr.value=1", "--directory", "results/../results/toy"], "results/toy is for the protoc"),
        (["--directory", "file"], "--directory file: is a file"),
        (["--directory", "trial"], "trial: holds TRIAL with lr.value=1, not one of the protocol"),
        (["lr.value=2", "--directory", "trial"], "trial: holds TRIAL with lr.value=1, not TRIAL"),
        (["--directory", "damaged"], "damaged/game.json: cannot be read: not an object"),
        (["--directory", "torn"], "torn/game.json: no JSON: "),
        (["--quik"], "unrecognized arguments: --quik; implicit-em toy --help explains"),
    ],
)
def test_a_mistake_gives_one_line_before_anything_runs(toy, typed, message, capsys):
    assert toy.main(["lr.value=1", "--directory", "trial"]) == 0
    Path("file").touch()
    for name, text in (("damaged", "[1]"), ("torn", '{"tri')):
        Path(name).mkdir()
        Path(name, "game.json").write_text(text)
    before = sorted(Path.cwd().rglob("*"))
    toy.said.clear()
    try:
        code = toy.main(typed)
    except SystemExit as end:
        code = end.code
    assert code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not toy.said
    assert sorted(Path.cwd().rglob("*")) == before


def test_one_process_at_a_time_has_a_directory(toy, capsys):
    assert toy.main([]) == 0
    with FileLock("results/toy/.lock"):
        assert toy.main([]) == 2
    assert capsys.readouterr().err == "error: results/toy: another game is running there\n"


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        ("fail=1", 1, "error: 1 of 2 runs failed\n"),
        ("stop=1", 130, "interrupted; the same command goes on\n"),
    ],
)
def test_what_ends_a_study_has_an_exit_code_and_the_same_command_goes_on(
    toy, change, code, line, capsys
):
    for _ in range(2):
        assert toy.main([change, "--directory", "trial"]) == code
        assert capsys.readouterr().err == line


def test_a_folder_of_configuration_files_is_resolved_and_named_if_it_is_another(toy, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.yaml").touch()
    assert toy.main(["--conf", "mine"]) == 0
    assert toy.main(["--conf", str(CONF)]) == 0
    own = f"implicit-em toy --conf {tmp_path / 'mine'}"
    assert [said for said, _ in toy.said] == [own, "implicit-em toy"]


def test_a_missed_target_fails_once_all_reports_are_written(toy, capsys):
    assert toy.main(["miss=1", "--directory", "there"]) == 1
    assert capsys.readouterr().err == "error: 1 missed targets, the first: as good as another\n"
    assert Path("there/report.md").exists()
