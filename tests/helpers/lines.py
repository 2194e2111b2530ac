"""What commands print."""


def one_line(capture):
    """Return the line of an error, as a command printed it: there is one, and no traceback."""
    out, error = capture.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error
