from matplotlib.figure import Figure

from implicit_em_studies.shared.report import Report


def titled() -> Figure:
    figure = Figure()
    figure.subplots().set_title("L1 · ‖W_d‖")
    return figure


def test_the_pdfs_keep_their_text(tmp_path):
    Report(tmp_path, {}, None).write_figures({"titled": titled})
    fonts = (tmp_path / "figures" / "titled.pdf").read_bytes()
    assert b"/Type /Font" in fonts
    assert b"/Subtype /Type3" not in fonts
