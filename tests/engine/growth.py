"""How far the private memory of a process grows during a merge: run as a program.

Its arguments are a recipe, another one that is run first so that imports and pools of the
allocator do not count, an output folder, bytes of memory, and threads. It prints the growth in
bytes, watched every millisecond, and what the merge itself reports.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from pathlib import Path

_STATUS = Path("/proc/self/status")


def private() -> int:
    """RssAnon of this process in bytes."""
    found = re.search(rb"RssAnon:\s*(\d+) kB", _STATUS.read_bytes())
    assert found is not None
    return int(found[1]) * 1024


def main(recipe: str, warm: str, out: str, memory: str, threads: str) -> None:
    """Measure one merge."""
    from cermet import api

    options = {"memory": int(memory), "threads": int(threads)}
    api.merge(warm, out + "-warm", **options)
    before = peak = private()
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.001):
            peak = max(peak, private())

    watcher = threading.Thread(target=watch)
    watcher.start()
    done = api.merge(recipe, out, **options)
    ended.set()
    watcher.join()
    print(json.dumps({"growth": peak - before, "peak": peak, "reported": done.peak_bytes}))


if __name__ == "__main__":
    main(*sys.argv[1:])
