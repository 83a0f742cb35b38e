"""The floor: read every model, write one.

`python -m bench.floor OUT MODEL...` reads with two threads into reused buffers, and
writes the bytes of the first model into OUT, whose space it reserves first: that halves what
writing costs. It writes 128 KiB at a time: for more the kernel looks for large runs of free
memory, which took three times as long. It imports nothing but the standard library.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["main", "read_all_copy_one"]

_BLOCK, _SLICE = 1 << 22, 1 << 17


def read_all_copy_one(models: Sequence[Path], out: Path, threads: int) -> int:
    """Read the files of `models`, write the first one to the file `out`; bytes read."""
    files = [os.open(path, os.O_RDONLY) for path in models]
    sizes = [os.fstat(file).st_size for file in files]
    target = os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        os.posix_fallocate(target, 0, sizes[0])

        def work(first: int) -> int:
            buffer = memoryview(bytearray(_BLOCK))
            done = 0
            for begin in range(first * _BLOCK, max(sizes), threads * _BLOCK):
                for number, file in enumerate(files):
                    count = os.preadv(file, [buffer], begin) if begin < sizes[number] else 0
                    done += count
                    for at in range(0, count if number == 0 else 0, _SLICE):
                        os.pwrite(target, buffer[at : min(at + _SLICE, count)], begin + at)
            return done

        with ThreadPoolExecutor(threads) as workers:
            return sum(workers.map(work, range(threads)))
    finally:
        for file in (*files, target):
            os.close(file)


def main(arguments: Sequence[str]) -> None:
    """Run on the weight files of model folders; threads from BENCH_THREADS, 2 by default."""
    out, *models = (Path(argument) for argument in arguments)
    threads = int(os.environ.get("BENCH_THREADS", "2"))
    read_all_copy_one([model / "model.safetensors" for model in models], out, threads)


if __name__ == "__main__":
    main(sys.argv[1:])
