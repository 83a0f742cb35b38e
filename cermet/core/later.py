"""torch, imported when something of it is first used: it takes longer than many a command."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__all__ = ["Later", "later", "loaded", "now", "once_loaded"]


class Later(ModuleType):
    """Stands for a module until an attribute of it is asked for; then has all that it has.

    Modules that said `import torch` before keep this one, and find in it what they would find
    in the real one; those that say it afterwards get the real one.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = find_spec(name)  # what others look for a module by, without importing it
        self._lock = threading.RLock()
        self._waiting: list[Callable[[], None]] = []

    def load(self) -> ModuleType:
        """Import the module, if that has not been done, and give it."""
        with self._lock:
            if sys.modules.get(self.__name__) is self:
                del sys.modules[self.__name__]
            real = import_module(self.__name__)
            while self._waiting:
                self._waiting.pop()()
        return real

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(self.load(), attribute)
        if not attribute.startswith("__"):
            self.__dict__[attribute] = found  # the next time it is found without this call
        return found

    def wait(self, call: Callable[[], None]) -> None:
        """Have something called when the module has been imported."""
        self._waiting.append(call)


def later(name: str) -> None:
    """Put off the import of a module in this process, if it has not been imported yet."""
    if name not in sys.modules:
        sys.modules[name] = Later(name)


def now(name: str) -> None:
    """Import a module, whether or not that had been put off."""
    module = import_module(name)
    if isinstance(module, Later):
        module.load()


def loaded(name: str) -> bool:
    """Whether a module has really been imported."""
    return not isinstance(sys.modules.get(name), Later | None)


def once_loaded(name: str, call: Callable[[], None]) -> None:
    """Call something now if a module has been imported, else as soon as it is."""
    module = sys.modules.get(name)
    if isinstance(module, Later):
        module.wait(call)
    else:
        call()
