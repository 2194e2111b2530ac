"""The digests of the comparison's protocol, pinned."""

DIGESTS = {
    "mnist": {
        "equal_width": "853f95768b7d4a34",
        "equal_parameters": "6783913593892d4a",
        "knobs": "380d964048d4757b",
        "decay_64": "bfaa55580dbf3457",
        "decay_128": "9fe314e3c4afb619",
    },
    "fashion_mnist": {
        "equal_width": "d8444ce79ef351ef",
        "equal_parameters": "98a86bcefb9cdb16",
        "knobs": "d5e36eaf618b77dd",
        "decay_64": "df018d4f6d3a403f",
        "decay_128": "01fdb43d261372a7",
    },
}
