"""Streams: one line for one line, in order, as soon as can be, and whole lines whatever happens."""

from __future__ import annotations

import os
import pty
import random
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.deployment.product import Translation
from pipeline.deployment.stream import Stopped, translate_stream, windows, write_lines
from pipeline.engines.search import BeamSearch
from pipeline.errors import StudyError

SEARCH = BeamSearch(beam=1, length_penalty=1.0, max_length=8)


class Capitals:
    """What stands in for a product: a translation is the line in capitals; a line of `long` is cut."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def translate(self, lines: Sequence[str], search: Any, *, batch_tokens: int, done: Any) -> list[Translation]:
        self.sizes.append(len(lines))
        return [Translation(text=line.upper(), cut=line == "long") for line in lines]


def _stream(folder: Path, data: bytes, **options: Any) -> tuple[bytes, Any, list[int]]:
    """Return what is written for `data` from a file, the summary, and the sizes of the windows."""
    product: Any = Capitals()
    (folder / "in").write_bytes(data)
    with (folder / "in").open("rb") as source, (folder / "out").open("wb") as sink:
        try:
            summary = translate_stream(product, SEARCH, source=source.fileno(), sink=sink.fileno(), **options)
        except StudyError as error:
            summary = error
    return (folder / "out").read_bytes(), summary, product.sizes


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", b""),
        (b"\n", b"\n"),
        (b"a", b"A\n"),
        (b"a\nb", b"A\nB\n"),
        (b"a\n\n\nb\n", b"A\n\n\nB\n"),
        (b"a\r\nb\r\n", b"A\nB\n"),
        (b"a\rb\n", b"A\rB\n"),
        ("a\u2028b\u0085c\x0bd\x1ce\nf\n".encode(), "A\u2028B\u0085C\x0bD\x1cE\nF\n".encode()),
        (b"\xef\xbb\xbfa\nb\n", b"A\nB\n"),
    ],
)
def test_a_line_is_a_line(data: bytes, expected: bytes, tmp_path: Path) -> None:
    written, summary, _ = _stream(tmp_path, data)
    assert written == expected
    assert summary.lines == expected.count(b"\n")


def test_any_bytes_keep_their_lines(tmp_path: Path) -> None:
    generator = random.Random(1)
    lines = ["".join(generator.choices("abc \r\tü", k=generator.choice([0, 3, 50, 5000]))) for _ in range(500)]
    data = "".join(f"{line}\n" for line in lines).encode()
    written, summary, sizes = _stream(tmp_path, data, window=64)
    assert written == "".join(f"{line.removesuffix(chr(13)).upper()}\n" for line in lines).encode()
    assert summary.lines == 500
    assert max(sizes) == 64


def test_the_first_lines_of_a_long_file_do_not_wait_for_many(tmp_path: Path) -> None:
    assert set(_stream(tmp_path, b"a\n" * 1000)[2]) == {200}


def test_cut_lines_are_counted(tmp_path: Path) -> None:
    assert _stream(tmp_path, b"long\nshort\nlong\n", window=1)[1].cut == 2


@pytest.mark.parametrize("window", [1, 2, 1000])
def test_what_stands_before_a_line_that_is_not_utf_8_is_out(window: int, tmp_path: Path) -> None:
    written, error, _ = _stream(tmp_path, b"a\nb\nc\xe9d\ne\n", window=window)
    assert written == b"A\nB\n"
    assert str(error).startswith("line 3 of the input is not UTF-8 (byte 2 is 0xe9); convert it")


def test_numbers_out_of_range(tmp_path: Path) -> None:
    assert "window 0" in str(_stream(tmp_path, b"a\n", window=0)[1])


def _pipe_stream(product: Any, source: int, sink: int) -> None:
    try:
        translate_stream(product, SEARCH, source=source, sink=sink)
    finally:
        os.close(sink)


def test_a_slow_pipe_is_not_kept_waiting() -> None:
    product = Capitals()
    source, feed = os.pipe()
    read, sink = os.pipe()
    thread = threading.Thread(target=_pipe_stream, args=(product, source, sink))
    thread.start()
    for line in (b"one\n", b"two\nthree\n", b"no end"):
        os.write(feed, line)
        if line.endswith(b"\n"):
            found = b""
            while found.count(b"\n") < line.count(b"\n"):
                assert select.select([read], [], [], 10)[0], "nothing came although a line was there"
                found += os.read(read, 1000)
            assert found == line.upper()
    assert not select.select([read], [], [], 0.1)[0], "half a line was translated"
    os.close(feed)
    thread.join(10)
    assert os.read(read, 1000) == b"NO END\n"
    for descriptor in (source, read):
        os.close(descriptor)


def test_a_window_takes_what_is_there() -> None:
    source, feed = os.pipe()
    os.write(feed, b"a\nb\nc\nd")
    found = windows(source, 2)
    assert next(found) == [b"a", b"b"]
    assert next(found) == [b"c"]
    os.close(feed)
    assert list(found) == [[b"d"]]
    os.close(source)


def test_a_reader_that_has_gone_is_an_error_of_its_own() -> None:
    read, sink = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError):
        write_lines(sink, ["a"])
    os.close(sink)


def test_a_pipe_that_does_not_block_is_waited_for() -> None:
    read, sink = os.pipe()
    os.set_blocking(sink, False)
    lines = ["x" * 99] * 5000
    thread = threading.Thread(target=write_lines, args=(sink, lines))
    thread.start()
    found = b""
    while len(found) < 500_000:
        found += os.read(read, 1 << 16)
    thread.join(10)
    assert found == b"".join(line.encode() + b"\n" for line in lines)
    os.close(read)
    os.close(sink)


SLOW = """
import sys, time
sys.path.insert(0, {root!r})
from pipeline.deployment.product import Translation
from pipeline.deployment.stream import Stopped, translate_stream
class Slow:
    def translate(self, lines, search, *, batch_tokens, done):
        for _ in lines if done else ():
            done(1)
        time.sleep({pause})
        return [Translation(text=line.upper(), cut=False) for line in lines]
try:
    translate_stream(Slow(), None, window={window})
except Stopped as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.exit_code)
"""
ROOT = str(Path(__file__).resolve().parents[2])


def _slow(pause: float, window: int) -> list[str]:
    return [sys.executable, "-c", SLOW.format(root=ROOT, pause=pause, window=window)]


@pytest.mark.parametrize("blocked", [True, False])
def test_ctrl_c_leaves_whole_lines(blocked: bool) -> None:
    """Stopped while it translates, and while it waits for a reader whose pipe is full."""
    line = b"abcdefghij" * 5 + b"\n"
    with subprocess.Popen(
        _slow(0 if blocked else 0.05, 3), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feed = threading.Thread(target=lambda: _feed(process.stdin, line * 4000))
        feed.start()
        first = process.stdout.read(len(line))
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest, said = process.stdout.read(), process.stderr.read()
        assert process.wait(20) == 130
        feed.join()
    found = first + rest
    assert found == line.upper() * (len(found) // len(line))
    assert 0 < len(found) < 4000 * len(line)
    assert said.startswith(b"Ctrl-C; whole lines were written")


def _feed(pipe: Any, data: bytes) -> None:
    try:
        pipe.write(data)
        pipe.close()
    except BrokenPipeError:
        pass


def test_a_bar_on_a_terminal_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"a\n" * 30)
    main, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with (tmp_path / "in").open("rb") as source, (tmp_path / "out").open("wb") as sink:
        subprocess.run(_slow(0.1, 3), stdin=source, stdout=sink, stderr=terminal, check=True)
    os.close(terminal)
    shown = b""
    while select.select([main], [], [], 1)[0]:
        try:
            shown += os.read(main, 1 << 16)
        except OSError:
            break
    os.close(main)
    assert b"translate" in shown
    assert b"/30 " in shown
    assert b"sentences/s" in shown
    with (tmp_path / "in").open("rb") as source:
        quiet = subprocess.run(_slow(0, 3), stdin=source, capture_output=True, check=True)
    assert quiet.stderr == b""
    assert quiet.stdout == b"A\n" * 30


def test_a_full_disk_is_one_line() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(StudyError, match=r"the output cannot be written \(No space left on device\)") as caught:
        write_lines(full, ["a"])
    os.close(full)
    assert len(str(caught.value).splitlines()) == 1


def test_an_input_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(StudyError, match="the input cannot be read"):
        list(windows(folder, 1))
    os.close(folder)


def test_stopped_has_the_shell_s_exit_code() -> None:
    assert Stopped("x").exit_code == 130
