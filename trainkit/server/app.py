"""The Jupyter Server extension."""

from __future__ import annotations

import datetime
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jupyter_server.extension.application import ExtensionApp
from tornado.ioloop import PeriodicCallback
from traitlets import Bool, Float, Integer, Unicode

from trainkit.files.store import ROOT_VARIABLE
from trainkit.runners.slots import live_job_ids
from trainkit.server.alone import DEFAULT_HOST, DEFAULT_PORT, ServerAlone, arguments
from trainkit.server.events import EventsHandler
from trainkit.server.health import health
from trainkit.server.http import CLOSING, LANES, SITE, DocumentHandler, HealthHandler, UnknownHandler, handlers
from trainkit.server.openapi import document
from trainkit.server.roots import Roots
from trainkit.server.routes import ROUTES
from trainkit.server.site import Site

#: Threads for each kind of work, so that no kind waits for another: a click not for a long list.
THREADS = {"look": 4, "list": 2, "ask": 8, "launch": 4}


class TrainkitApp(ExtensionApp):
    """Train, watch and steer jobs by HTTP."""

    name = "trainkit"
    extension_url = "/api/train/jobs"
    load_other_extensions = False
    serverapp_class = ServerAlone
    open_browser = Bool(False, config=True, help="Whether to open a browser.")
    root = Unicode(
        "",
        config=True,
        help="Root folder of the jobs where a request names none. Without it TRAINKIT_ROOT, or the server's "
        "root folder.",
    )
    max_live_jobs = Integer(
        16, min=1, config=True, help="How many jobs may run or wait on this machine before no more are started."
    )

    activity_every_s = Float(
        30.0, min=0.1, config=True, help="Seconds between two looks at whether jobs run, which count as activity."
    )

    @classmethod
    def get_extension_package(cls) -> str:
        """Return the package whose ``_jupyter_server_extension_points`` tells about this class."""
        return "trainkit.server"

    def initialize_settings(self) -> None:
        """Make what the handlers need."""
        assert self.serverapp is not None
        server = Path(self.serverapp.root_dir)
        default = Path(self.root or os.environ.get(ROOT_VARIABLE) or server).expanduser().absolute()
        self.closing = threading.Event()
        self.lanes = {
            name: ThreadPoolExecutor(threads, thread_name_prefix=f"trainkit-{name}")
            for name, threads in THREADS.items()
        }
        self.settings[SITE] = Site(
            Roots(server, default), base_url=self.serverapp.base_url, max_live_jobs=self.max_live_jobs
        )
        self.settings[LANES] = self.lanes
        self.settings[CLOSING] = self.closing
        self.activity = PeriodicCallback(self._tell_activity, 1000 * self.activity_every_s)
        self.activity.start()

    def _tell_activity(self) -> None:
        """Have running jobs count as activity of the server, which is what a hub's culler asks for.

        Jupyter Server takes into account every setting whose name ends like this
        (``ServerWebApplication.last_activity``).
        """
        assert self.serverapp is not None
        if live_job_ids():
            now = datetime.datetime.now(datetime.timezone.utc)
            self.serverapp.web_app.settings["trainkit_last_activity"] = now

    def initialize_handlers(self) -> None:
        """Add the routes."""
        assert self.serverapp is not None
        paths: list[tuple[Any, ...]] = [
            ("/health", HealthHandler, {"respond": health}),
            ("/api/train/events", EventsHandler, {}),
            ("/api/train/openapi.json", DocumentHandler, {"document": document(self.serverapp.base_url, ROUTES)}),
            *handlers(ROUTES),
            ("/api/train/.*", UnknownHandler, {}),
        ]
        self.handlers.extend(paths)

    def current_activity(self) -> list[str] | None:
        """Tell the server what goes on, so that it does not end for want of activity while jobs run."""
        return live_job_ids() or None

    async def stop_extension(self) -> None:
        """Let go of the pages that follow and of the threads; the jobs go on."""
        self.closing.set()
        self.activity.stop()
        for lane in self.lanes.values():
            lane.shutdown(wait=False, cancel_futures=True)


def serve(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    root: str | os.PathLike[str] | None = None,
    token: str | None = None,
    base_url: str = "/",
    *,
    announce_json: bool = False,
) -> None:
    """Run the extension alone until Ctrl-C or SIGTERM; its jobs go on without it.

    Args:
        host: the address to listen on.  Whoever reaches it and has the token may start jobs.
        port: the port; 0 for any that is free.
        root: the root folder of the jobs; without it ``TRAINKIT_ROOT`` or the current folder.
        token: the token; without it ``JUPYTER_TOKEN``, or one that is made and printed.  An empty one is refused.
        base_url: the path below which the routes are.
        announce_json: print the address as one JSON object, for programs.

    Raises:
        OptionError: the root is not a folder, the port is taken, or the token is empty.
    """
    argv = arguments(host, port, root, token, base_url, announce_json=announce_json)
    TrainkitApp.launch_instance(argv)  # type: ignore[no-untyped-call]


def main() -> None:
    """Run the extension alone: ``jupyter trainkit``, with the options of Jupyter Server."""
    TrainkitApp.launch_instance()  # type: ignore[no-untyped-call]
