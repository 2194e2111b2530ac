import subprocess

from matplotlib.figure import Figure

from implicit_em_studies.shared.report import Report, history_of


def titled() -> Figure:
    figure = Figure()
    figure.subplots().set_title("L1 · ‖W_d‖")
    return figure


def test_the_pdfs_keep_their_text(tmp_path):
    Report(tmp_path, {}, None).write_figures({"titled": titled})
    fonts = (tmp_path / "figures" / "titled.pdf").read_bytes()
    assert b"/Type /Font" in fonts
    assert b"/Subtype /Type3" not in fonts


def test_a_file_that_was_moved_was_first_committed_under_its_first_name(tmp_path):
    def git(*words):
        own = ["-c", "user.name=one", "-c", "user.email=one@here"]
        done = subprocess.run(
            ["git", *own, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    commits = []
    for name in ("first.py", "criteria.py"):
        git("rm", "--quiet", "--ignore-unmatch", "--cached", "first.py")
        (tmp_path / name).write_text("a criterion\n" * 20)
        git("add", name)
        git("commit", "--quiet", "--message", f"as {name}")
        commits.append(git("log", "-1", "--format=%h"))
    first, last = commits
    said = f"first committed in {first}, last touched in {last}"
    assert history_of(tmp_path / "criteria.py") == said
    assert "unknown: not a checkout" in history_of(tmp_path / "nothing.py")
