"""A folder has one holder at a time."""

import pytest

from implicit_em.base.errors import ConfigError
from implicit_em.base.locking import locked


def test_a_second_holder_is_refused_until_the_first_has_left(tmp_path):
    with locked(tmp_path), pytest.raises(ConfigError, match=r"^busy$"):
        locked(tmp_path, refusal="busy").__enter__()
    with locked(tmp_path, refusal="busy"):
        pass
