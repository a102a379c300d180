"""Errors of libraries in the project's words."""

import pytest

from flarecli.errors import MemoryExceeded, as_flare_error, first_line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "EOFError"),
        (" \n ", "EOFError"),
        ("\nno data\nmore", "no data"),
        ("x" * 300, "x" * 200),
        ("\x1b[1mno\x1b[0m data", "no data"),
    ],
)
def test_the_first_line_of_an_error(text, expected):
    assert first_line(EOFError(text)) == expected


@pytest.mark.parametrize(("text", "expected"), [("", "out of memory"), ("\nCUDA\nmore", "out of memory: CUDA")])
def test_out_of_memory_says_what_is_known(text, expected):
    error = as_flare_error(MemoryError(text))
    assert isinstance(error, MemoryExceeded) and error.message == expected
