"""How tokens are written on pages."""

from helpers.pages import HOSTILE

from implicit_em.language.seen import readable


def test_wordpiece_gets_its_spaces_back():
    vocabulary = ["[CLS]", "##ing", "read", ".", "##s", "7", "##"]
    assert readable(vocabulary, {0}) == ["[CLS]", "ing", " read", ".", "s", " 7", ""]


def test_other_vocabularies_stay():
    assert readable(HOSTILE, {0, 1}) == HOSTILE
    letters = [*" abcdefghijklmnopqrstuvwxyz", "##"]
    assert readable(letters, {}) == letters
