"""Models that remember the arguments that they were made with."""

from typing import Any

from torch import nn


class Described(nn.Module):
    """Base of the models: ``made_with`` has the positional arguments and those by name."""

    made_with: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *arguments: Any, **by_name: Any) -> "Described":
        """Note the arguments, also those of a subclass that its ``__init__`` does not pass on."""
        made = super().__new__(cls)
        vars(made)["made_with"] = (arguments, by_name)
        return made
