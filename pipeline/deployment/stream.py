"""Lines in, lines out, one for one and in order: what `tlc translate` does between two pipes.

Reading never waits for more than is there once a line is there; writing is done by whole lines, of which a pipe takes a
block of PIPE_BUF bytes whole or not at all: whoever stops this, at whatever moment, finds no half a line.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from pipeline.deployment.product import BATCH_TOKENS, Product
from pipeline.engines.search import BeamSearch
from pipeline.errors import StudyError
from pipeline.progress import progress

WINDOW = 1000
_CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What came of a stream: lines written, and how many of them were cut at the model's positions."""

    lines: int
    cut: int


class Stopped(Exception):
    """Ctrl-C: only whole lines are out. The exit code is 130."""

    exit_code = 130


def _ready(descriptor: int, *, wait: bool) -> bool:
    """Tell whether reading would not block; `wait` until then."""
    return bool(select.select([descriptor], [], [], None if wait else 0)[0])


def _read(source: int) -> bytes:
    try:
        return os.read(source, _CHUNK)
    except OSError as error:
        raise StudyError(
            f"the input cannot be read ({error.strerror}); give a file or a pipe of UTF-8 lines"
        ) from error


def windows(source: int, size: int) -> Iterator[list[bytes]]:
    r"""Yield the lines of a file descriptor, without their \n, at most `size` at a time.

    A window has what is there already, one line at least: the next one is never waited for. Only \n ends a line, and the
    last one needs none.
    """
    lines: list[bytes] = []
    begun: list[bytes] = []  # of a line whose end has not come
    ended = False
    while True:
        while len(lines) < size and not ended and _ready(source, wait=not lines):
            chunk = _read(source)
            first, *others = chunk.split(b"\n")
            begun.append(first)
            if others:
                lines += [b"".join(begun), *others[:-1]]
                begun = [others[-1]]
            ended = not chunk
            if ended and any(begun):
                lines.append(b"".join(begun))
        if not lines:
            return
        yield lines[:size]
        del lines[:size]


def write_lines(sink: int, lines: Sequence[str]) -> None:
    """Write lines, each with its \\n, in blocks of whole lines that a pipe takes whole (where a line is not longer).

    BrokenPipeError when the reader has gone; StudyError on anything else that stops it, such as a full disk.
    """
    block = b""
    for line in lines:
        data = line.encode("utf-8") + b"\n"
        if block and len(block) + len(data) > select.PIPE_BUF:
            _write(sink, block)
            block = b""
        block += data
    _write(sink, block)


def _write(sink: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(sink, data) :]
        except BlockingIOError:  # whoever made the pipe may have made it so
            select.select([], [sink], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StudyError(
                f"the output cannot be written ({error.strerror}); its last line may be cut off"
            ) from error


def _decoded(window: list[bytes], before: int) -> tuple[list[str], str | None]:
    """Return the lines up to the first that is not UTF-8, and what is wrong with that one."""
    lines: list[str] = []
    for number, raw in enumerate(window, start=before + 1):
        try:
            text = raw.decode("utf-8").removesuffix("\r")
            lines.append(text.removeprefix("\ufeff") if number == 1 else text)
        except UnicodeDecodeError as error:
            return (
                lines,
                f"line {number} of the input is not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x})",
            )
    return lines, None


def _lines_of_file(source: int) -> int | None:
    """Return how many lines are left in a regular file, None for a pipe or a terminal."""
    if not stat.S_ISREG(os.fstat(source).st_mode):
        return None
    place, count, last = os.lseek(source, 0, os.SEEK_CUR), 0, b"\n"
    while chunk := os.pread(source, 1 << 20, place):
        place, count, last = place + len(chunk), count + chunk.count(b"\n"), chunk[-1:]
    return count + (last != b"\n")


def _bar(source: int, sink: int) -> Any:
    """Return a bar on a terminal's stderr; none where translations appear on a terminal too, and would mix with it."""
    if os.isatty(sink) or not sys.stderr.isatty():
        return nullcontext()
    return progress(total=_lines_of_file(source), desc="translate", unit=" sentences")


def translate_stream(
    product: Product,
    search: BeamSearch,
    *,
    source: int = 0,
    sink: int = 1,
    window: int = WINDOW,
    batch_tokens: int = BATCH_TOKENS,
) -> Streamed:
    """Translate the lines of one file descriptor into another, each window written as soon as it is translated.

    StudyError with the line's number on invalid UTF-8, once all lines before it are out; BrokenPipeError when the reader
    has gone; Stopped on Ctrl-C.
    """
    if window < 1 or batch_tokens < 1:
        raise StudyError(f"window {window} and batch_tokens {batch_tokens} must be at least 1")
    written = cut = 0
    try:
        with _bar(source, sink) as bar:
            for raw in windows(source, window):
                lines, fault = _decoded(raw, written)
                results = product.translate(
                    lines, search, batch_tokens=batch_tokens, done=None if bar is None else bar.update
                )
                write_lines(sink, [result.text for result in results])
                written += len(results)
                cut += sum(result.cut for result in results)
                if fault:
                    raise StudyError(f"{fault}; convert it, for example with `iconv -f LATIN1 -t UTF-8`")
    except KeyboardInterrupt:
        raise Stopped(f"Ctrl-C; whole lines were written, at least {written} of them") from None
    return Streamed(lines=written, cut=cut)
