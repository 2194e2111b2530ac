import itertools

import numpy as np
import pytest

from implicit_em.language.token_classes import classes_of, newline_next

MEMBERS = {
    "digit": ["7", " 2024", "٣", " ५", "²"],
    "capital": ["The", " Paris", " É", "E\u0301", "Ж", "ǅ", '"Yes', "McD", "𝐀"],
    "punctuation": [".", " ...", "—", "«", "。", " ¿?", "_"],
}
NONE = ["", " ", "  ", "\n", "the", " iPhone", "3d", "½", "三", "漢", "+", "$", ".a", "1.5"]
NONE += ["a1", "\N{REPLACEMENT CHARACTER}", "ªB", "\N{COMBINING ACUTE ACCENT}", "1 2", "! ?", "ß"]


@pytest.mark.parametrize("name", MEMBERS)
def test_a_class_has_its_members_alone(name):
    words = [*itertools.chain(*MEMBERS.values()), *NONE]
    classes = classes_of(words, special=[])
    assert classes.keys() == MEMBERS.keys()
    assert classes[name].dtype == bool
    assert [word for word, inside in zip(words, classes[name], strict=True) if inside] == (
        MEMBERS[name]
    )


def test_special_tokens_belong_to_no_class():
    words = ["[CLS]", "A", "1", "!", "A"]
    classes = classes_of(words, special={0, 2, 3, 4})
    assert classes["capital"].tolist() == [False, True, False, False, False]
    assert not classes["digit"].any()
    assert not classes["punctuation"].any()


def test_a_vocabulary_may_be_empty():
    assert all(members.shape == (0,) for members in classes_of([], special=[]).values())


def test_the_next_token_is_that_of_the_document():
    words = ["a", "\n", " b\r\n", "<s>"]
    ids = np.array([0, 1, 2, 0, 1, 0, 2], np.int32)
    starts = np.array([0, 4, 6, 7])
    document = np.array([0, 1, 0, 2, 0, 1, 0, 0, 2, 1], np.int32)
    place = np.array([3, 0, 1, 0, 0, 1, 2, -1, -1, -1], np.int32)
    found, defined = newline_next(words, ids, starts, document, place)
    assert defined.tolist() == [False, True, True, False, True, False, True] + [False] * 3
    assert found.tolist() == [False, False, True, False, True, False, False] + [False] * 3
    assert found.dtype == defined.dtype == bool


def test_it_is_that_of_a_walk_through_the_documents():
    rng = np.random.default_rng(0)
    words, lengths = ["a", "b", "\n\n"], rng.integers(1, 6, 20)
    starts, ids = np.array([0, *lengths.cumsum()]), rng.integers(0, 3, lengths.sum())
    walk = [(number, place) for number in range(20) for place in range(lengths[number])]
    document, place = rng.permutation(walk).T
    found, defined = newline_next(words, ids, starts, document, place)
    for row, (number, at) in enumerate(zip(document, place, strict=True)):
        after = ids[starts[number] : starts[number + 1]][at + 1 : at + 2]
        assert defined[row] == (len(after) == 1)
        assert found[row] == (after.tolist() == [2])
