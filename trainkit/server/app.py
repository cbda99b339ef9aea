"""The Jupyter Server extension, and the server that runs it alone."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Unicode

from trainkit.server.health import health
from trainkit.server.http import SETTING, HealthHandler, Server, UnknownHandler, handlers
from trainkit.server.roots import Roots
from trainkit.server.routes import ROUTES
from trainkit.store import ROOT_VARIABLE

#: Threads for each kind of work, so that one kind never waits for another.
LANES = {"look": 4, "list": 2, "ask": 8}


class TrainkitApp(ExtensionApp):
    """Train and watch jobs by HTTP."""

    name = "trainkit"
    extension_url = "/api/train/jobs"
    load_other_extensions = False
    open_browser = Bool(False, config=True, help="Whether to open a browser.")

    root = Unicode(
        "",
        config=True,
        help="Root folder of the jobs where a request names none. Without it TRAINKIT_ROOT, or the server's "
        "root folder.",
    )

    @classmethod
    def get_extension_package(cls) -> str:
        """Return the package whose ``_jupyter_server_extension_points`` tells about this class."""
        return "trainkit.server"

    def initialize_settings(self) -> None:
        """Make what the handlers need."""
        assert self.serverapp is not None
        server = Path(self.serverapp.root_dir)
        default = self.root or os.environ.get(ROOT_VARIABLE) or server
        self.lanes = {
            name: ThreadPoolExecutor(threads, thread_name_prefix=f"trainkit-{name}")
            for name, threads in LANES.items()
        }
        roots = Roots(server, Path(default).expanduser().absolute())
        self.settings[SETTING + "_server"] = Server(roots, self.lanes, self.serverapp.base_url)

    def initialize_handlers(self) -> None:
        """Add the routes."""
        routes: list[tuple[Any, ...]] = [("/health", HealthHandler, {"respond": health}), *handlers(ROUTES)]
        self.handlers.extend([*routes, (r"/api/train(?:/.*)?", UnknownHandler, {})])

    async def stop_extension(self) -> None:
        """Let go of the threads; the jobs go on."""
        for lane in self.lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)


def main() -> None:
    """Run the extension alone: ``jupyter trainkit``."""
    TrainkitApp.launch_instance()  # type: ignore[no-untyped-call]
