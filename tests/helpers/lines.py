"""What commands print."""


def one_line(capture):
    """Return the line of an error, as a command printed it: there is one, and no traceback."""
    error = capture.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
