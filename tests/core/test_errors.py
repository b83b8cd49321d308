"""Printed text cannot control a terminal, and its lines are short enough to read."""

import errno
import io
import sys

import pytest

from pipeline.core.errors import LONGEST, UserError, brief, one_line, printable, run, say


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("naïve 犬 \U0001f469\u200d\U0001f680.jpg", "naïve 犬 \U0001f469\u200d\U0001f680.jpg"),
        ("a\x1b]0;owned\x07b", "a\\x1b]0;owned\\x07b"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("c1 \x9b31m del \x7f", "c1 \\x9b31m del \\x7f"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("bytes \udcff of a name", "bytes \\xff of a name"),
        ("half \ud83d", "half \\ud83d"),
        ("C:\\folder", "C:\\folder"),
    ],
)
def test_what_a_terminal_would_obey_is_an_escape_and_all_else_stays(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown


def test_a_long_text_keeps_its_beginning_and_its_end():
    shown = printable("a" * 2_000_000 + "b" * 1_000_000)
    assert len(shown) == LONGEST
    assert shown == f"{'a' * 1495} [...] {'b' * 498}"
    assert printable("c" * LONGEST) == "c" * LONGEST
    assert printable("c" * 3000, longest=None) == "c" * 3000


def test_an_error_of_two_megabytes_is_one_short_line_with_what_to_do(capsys):
    def fails():
        raise UserError(f"row 3: '{'x' * 2_000_000}\x1b[2J' is too long:\n shorten it")

    with pytest.raises(SystemExit) as end:
        run(fails)
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert len(error) < LONGEST + 40
    assert error.startswith("error: row 3: 'xxx")
    assert error.endswith("xx\\x1b[2J' is too long: shorten it\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.EROFS, "Read-only file system", "models/.a.part"),
            "models/.a.part is on a disk that is read-only here: work in a copy that can be "
            "written, then run the same command again",
        ),
        (
            OSError(errno.EACCES, "Permission denied", "data/report"),
            "data/report may not be written or read by this user: change its permissions, then "
            "run the same command again",
        ),
        (
            OSError(errno.EACCES, "Failed to open local file 'a.parquet'"),
            "[Errno 13] Failed to open local file 'a.parquet' may not be written or read by this "
            "user: change its permissions, then run the same command again",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "b"),
            "the disk is full while writing b: free some space, then run the same command again",
        ),
    ],
)
def test_a_disk_that_cannot_be_written_is_one_line(capsys, error, line):
    def fails():
        raise error

    with pytest.raises(SystemExit) as end:
        run(fails)
    assert (end.value.code, capsys.readouterr().err) == (2, f"error: {line}\n")


def test_any_other_error_of_the_system_keeps_its_traceback():
    def fails():
        raise OSError(errno.EIO, "Input/output error", "a")

    with pytest.raises(OSError, match="Input/output error"):
        run(fails)


def test_a_terminal_of_ascii_is_shown_escapes(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    run(lambda: print("a caf\u00e9 \u72ac"))
    terminal.seek(0)
    assert terminal.read() == "a caf\\xe9 \\u72ac\n"


def test_a_librarys_error_is_short_and_printable():
    assert brief(ValueError("bad\x1b[2J  value\nhere")) == "ValueError: bad\\x1b[2J value here"
    assert len(brief(ValueError("word " * 1_000_000))) <= 160
    assert one_line(ValueError("two\nlines\x07")) == "two lines\\x07"


def test_lines_are_said_as_lines(capsys):
    say("one\x1b[1m\ntwo")
    assert capsys.readouterr().out == "one\\x1b[1m\ntwo\n"


def test_what_standard_output_cannot_encode_stops_no_command() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("CIDEr 0.71 ±.01, café", out)
    out.seek(0)
    assert out.read() == "CIDEr 0.71 +-.01, caf\\xe9\n"
