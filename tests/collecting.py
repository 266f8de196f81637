"""A node for tests that look for reference cycles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.daemons import Daemon, wait_for

# A service of a worker that says which of our objects the garbage collector finds, which does not come by itself.
_SERVICE = """
import gc
from pathlib import Path

import gevent

from raiden.service import Service


class Collector(Service):
    def do_start(self):
        self.spawn(self.run)

    def run(self):
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        folder = Path("FOLDER")
        while True:
            gevent.sleep(0.02)
            if (folder / "asked").exists():
                (folder / "asked").unlink()
                gc.collect()
                kinds = {type(each) for each in gc.garbage}
                gc.garbage.clear()
                names = sorted(kind.__qualname__ for kind in kinds if kind.__module__.startswith("raiden."))
                (folder / "written").write_text(" ".join(names))
                (folder / "written").rename(folder / "found")


def service(worker):
    return Collector()
"""


class Collecting(Daemon):
    """A node whose garbage collector comes only when it is asked. ``more`` stands in its config file, too."""

    def __init__(self, folder: Path, more: str = "", **settings: Any) -> None:
        self._asked, self._found = folder / "asked", folder / "found"
        config = folder / "raiden.conf.py"
        config.write_text(_SERVICE.replace("FOLDER", str(folder)) + more)
        super().__init__(folder / "node", config=config, **settings)

    def collected(self) -> str:
        """The names of our classes that have objects in cycles, since it was asked last."""
        self._asked.touch()
        wait_for(self._found.exists, "the collector has found something")
        names = self._found.read_text()
        self._found.unlink()
        return names
