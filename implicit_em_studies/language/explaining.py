"""The study of language models once more, of codes that are inferred in several sweeps."""

from dataclasses import replace
from pathlib import Path

from implicit_em_studies.language import study
from implicit_em_studies.language.protocol import ExplainingProtocol

STUDY = replace(
    study.STUDY,
    name="explaining-away",
    directory=Path("results/explaining-away"),
    purpose="Compare codes of one sweep and of several on language models, at equal parameters and "
    "at equal units.",
    words=study.STUDY.words.replace("language.yaml", ExplainingProtocol.file),
    needs=ExplainingProtocol.file,
    protocol=ExplainingProtocol,
)
