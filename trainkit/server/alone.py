"""The server that runs the extension alone: nothing of Jupyter Server is reachable but its authentication."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

import click
import msgspec
from jupyter_core.application import JupyterApp
from jupyter_server.base.handlers import RedirectWithParams
from jupyter_server.serverapp import ServerApp
from tornado.routing import Router
from traitlets import Bool, default

from trainkit.errors import OptionError
from trainkit.files.store import Store
from trainkit.server.http import UnknownHandler

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 3001
TOKEN_VARIABLE = "JUPYTER_TOKEN"
_NO_TOKEN = (
    f"the token is empty: anybody who reaches the server could start jobs. Set {TOKEN_VARIABLE} to a token that "
    "nobody can guess, or leave it unset to have one made and printed"
)


class ServerAlone(ServerApp):
    """A Jupyter Server without kernels, contents, terminals, pages and other extensions."""

    name = "trainkit"
    announce_json = Bool(False, config=True, help="Tell the address as one JSON object.")
    default_services = ()  # type: ignore[assignment]  # any number of names

    @default("log_level")
    def _default_log_level(self) -> int:
        return logging.WARNING  # what it does is its answers

    @default("ip")
    def _default_ip(self) -> str:
        return DEFAULT_HOST

    @default("port")
    def _default_port(self) -> int:
        return DEFAULT_PORT

    @default("port_retries")
    def _default_port_retries(self) -> int:
        return 0  # who has written down the address would not find another port

    @default("allow_root")
    def _default_allow_root(self) -> bool:
        return True  # as for any other command; in a container there is often nobody else

    @default("reraise_server_extension_failures")
    def _default_reraise(self) -> bool:
        return True  # without the extension there is nothing to serve

    def init_signal(self) -> None:
        """End at the first Ctrl-C: no question is asked, since the jobs go on."""
        super().init_signal()
        signal.signal(signal.SIGINT, self._signal_stop)

    def init_httpserver(self) -> None:
        """Leave only our routes, whatever a configuration file has added, and listen."""
        provider = self.identity_provider
        if not provider.auth_enabled or (provider.token and not provider.token.strip()):
            raise OptionError(_NO_TOKEN)
        router = self.web_app.default_router
        ours = [rule for rule in router.rules if _is_ours(rule.target)]
        router.rules = []
        to_jobs = {"url": self.default_url, "permanent": False}
        beginnings = [(path, RedirectWithParams, to_jobs) for path in dict.fromkeys(("/", self.base_url))]
        self.web_app.add_handlers(".*$", [*beginnings, ("(.*)", UnknownHandler, {})])  # type: ignore[no-untyped-call]
        router.rules = [*ours, *router.rules]
        super().init_httpserver()

    def start_app(self) -> None:
        """Do what was asked on the command line other than to run, without a word about kernels."""
        JupyterApp.start(self)

    def _bind_http_server(self) -> None:
        super()._bind_http_server()
        if self.announce_json:
            told = {
                "ok": True,
                "url": self.connection_url,
                "token": self.identity_provider.token,
                "pid": os.getpid(),
            }
            click.echo(msgspec.json.encode({**told, "root": self.root_dir}))
            return
        click.echo(
            f"trainkit listens on {self.local_url}\n"
            f"Jobs are under {self.root_dir}. Ctrl-C ends this server; the jobs go on without it."
        )


def _is_ours(target: Any) -> bool:
    if isinstance(target, Router):
        rules = getattr(target, "rules", [])
        return bool(rules) and all(_is_ours(rule.target) for rule in rules)
    return bool(getattr(target, "__module__", "").startswith("trainkit.server."))


def arguments(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    root: str | os.PathLike[str] | None = None,
    token: str | None = None,
    base_url: str = "/",
    *,
    announce_json: bool = False,
) -> list[str]:
    """Return the command line that stands for the arguments of :func:`trainkit.server.app.serve`.

    Raises:
        OptionError: the root is not a folder, the port is taken, or the token is empty.
    """
    given_token = os.environ.get(TOKEN_VARIABLE) if token is None else token
    if given_token is not None and not given_token.strip():
        raise OptionError(_NO_TOKEN)
    folder = Store(root).root
    if not Path(folder).is_dir():
        raise OptionError(f"root: there is no folder {str(folder)!r}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OptionError(
                f"cannot listen on {host}:{port} ({error.strerror}); if a server runs there already, choose "
                "another port, or 0 for any free one"
            ) from None
    given = [
        f"--ServerApp.ip={host}",
        f"--ServerApp.port={port}",
        f"--ServerApp.base_url={base_url}",
        f"--ServerApp.root_dir={folder}",
        f"--TrainkitApp.root={folder}",
        f"--ServerAlone.announce_json={announce_json}",
    ]
    return given if token is None else [*given, f"--IdentityProvider.token={token}"]
