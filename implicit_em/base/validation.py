"""What pydantic refuses, in one line."""

import textwrap
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from implicit_em.base.errors import DamagedError, nearest
from implicit_em.base.files import read_json

MAPPING = "must be a mapping, {KEY: VALUE, ...}"
SHAPES = {
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "list_type": "must be a list, [VALUE, ...]",
    "too_short": "must not be empty",
}
"""What a value must be, by pydantic's type of the mistake; other mistakes keep pydantic's words."""


Content = TypeVar("Content", bound=BaseModel)


def read_as(schema: type[Content], path: Path) -> Content:
    """Return the content of a JSON file; raise as ``read_json`` and ``conforming`` do."""
    return conforming(schema, read_json(path), str(path))


def conforming(schema: type[Content], content: Any, subject: str) -> Content:
    """Return content by its schema, or raise ``DamagedError`` with ``subject: mistake``."""
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise DamagedError(f"{subject}: {first_mistake(error, schema)}") from error


def first_mistake(error: ValidationError, schema: type[BaseModel]) -> str:
    """Return the key, the value and what is allowed, of the first value that a schema refuses.

    A misspelt key comes before the key that it leaves missing.
    """
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    *above, name = map(str, first["loc"] or ("",))
    key = ".".join([*above, name])
    if first["type"] == "missing":
        return f"{key}: missing"
    if first["type"] == "extra_forbidden":
        for part in above:
            schema = _model_in(schema.model_fields.get(part)) or schema
        return f"{key}: no such key; {nearest(name, schema.model_fields)}"
    message = SHAPES.get(first["type"], first["msg"])
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    value = textwrap.shorten(str(first["input"]), 100, placeholder="...")
    return f"{key}={value}: {message}" if key else message  # without a key, several contradict


def _model_in(field: FieldInfo | None) -> type[BaseModel] | None:
    """Return the model of a field's value, or of the values that it holds, if there is one."""
    kinds = () if field is None else (field.annotation, *get_args(field.annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
