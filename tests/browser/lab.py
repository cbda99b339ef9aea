"""A real JupyterLab and a real browser, made for tests: started on a free port, ended by process id."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, Page

from trainkit.api.listing import records_of
from trainkit.files.store import Store

CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHROMIUM = os.environ.get("TRAINKIT_CHROMIUM", "/usr/bin/chromium")
#: Tests run one after the other in one kernel, which a test may restart, but must not leave busy.
SHARED_KERNEL = "python3"
_NOTEBOOK = "window.jupyterapp.shell.currentWidget"


class Lab:
    """A JupyterLab server with a home, settings and root of its own.

    Args:
        folder: where all of it goes.
        extension: whether trainkit's server extension is enabled.
        application: the module to run, ``jupyterlab`` or ``notebook``.
        packages: a folder whose packages it also has.
    """

    def __init__(
        self,
        folder: Path,
        *,
        extension: bool = True,
        application: str = "jupyterlab",
        packages: Path | None = None,
    ) -> None:
        self.root = folder / "root"
        self.folder = folder
        self.page = {"jupyterlab": "doc/tree/{name}?reset&", "notebook": "notebooks/{name}?"}[application]
        self.token = secrets.token_hex(16)
        self._shared = ""  # the id of the kernel that notebooks share
        self.root.mkdir(parents=True)
        env = {
            key: value for key, value in os.environ.items() if not key.startswith(("JUPYTER", "JPY_", "TRAINKIT"))
        }
        env |= {
            "HOME": str(folder),
            "JUPYTER_CONFIG_DIR": str(folder / "config"),
            "JUPYTER_DATA_DIR": str(folder / "data"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            "OMP_NUM_THREADS": "1",
            "TRAINKIT_ROOT": str(self.root),
            "TRAINKIT_QUEUE": str(folder / "queue"),
        }
        if packages is not None:
            env |= {"PYTHONPATH": str(packages), "JUPYTER_PATH": str(packages / "share" / "jupyter")}
        notifications = folder / "settings" / "@jupyterlab" / "apputils-extension"
        notifications.mkdir(parents=True)
        (notifications / "notification.jupyterlab-settings").write_text(
            '{"fetchNews": "false", "checkForUpdates": false}'
        )
        (folder / "config").mkdir()
        (folder / "config" / "jupyter_server_config.json").write_text(
            json.dumps({"ServerApp": {"jpserver_extensions": {"trainkit.server": extension}}})
        )
        self.log_path = folder / "server.log"
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    application,
                    "--no-browser",
                    "--allow-root",
                    "--expose-app-in-browser",
                    "--ServerApp.ip=127.0.0.1",
                    "--ServerApp.port=0",  # the system chooses; read back below, so there is no race for a port
                    "--ServerApp.base_url=/some/where/",
                    f"--IdentityProvider.token={self.token}",
                    f"--ServerApp.root_dir={self.root}",
                    "--ServerApp.terminals_enabled=False",
                    "--LabApp.news_url=None",
                    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
                ],
                env=env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.url = self._wait_until_up(folder / "runtime" / f"jpserver-{self.process.pid}.json")

    def _wait_until_up(self, info: Path) -> str:
        give_up_at = time.monotonic() + 60
        while time.monotonic() < give_up_at:
            if self.process.poll() is not None:
                raise RuntimeError(self.log_path.read_text()[-3000:])
            try:
                url = str(json.loads(info.read_text())["url"]).rstrip("/")
                self.url = url
                self.call("/api/status")
            except (OSError, ValueError, urllib.error.URLError):
                time.sleep(0.1)
            else:
                return url
        raise TimeoutError(self.log_path.read_text()[-3000:])

    def call(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Call the server's own API."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            headers={"Authorization": f"token {self.token}"},
            data=None if body is None else json.dumps(body).encode(),
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            data = answer.read()
        return json.loads(data) if data else None

    def notebook(self, name: str, cells: list[str], *, kernel: str = "python3") -> str:
        """Write a notebook of code cells below the root."""
        spec = {"name": kernel, "display_name": kernel}
        notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata={"kernelspec": spec})
        nbformat.write(notebook, self.root / name)
        if kernel == SHARED_KERNEL:
            self._give_shared_kernel(name)
        return name

    def _give_shared_kernel(self, name: str) -> None:
        """Let the page that opens a notebook find it running, in a kernel that has torch imported already."""
        if self._shared not in [each["id"] for each in self.call("/api/kernels")]:
            self._shared = self.call("/api/kernels", "POST", {"name": SHARED_KERNEL, "path": name})["id"]
        session = {"path": name, "name": name, "type": "notebook", "kernel": {"id": self._shared}}
        self.call("/api/sessions", "POST", session)

    def add_kernel(self, name: str, packages: Path) -> None:
        """Offer a kernel that takes packages from this folder before those of the environment."""
        folder = self.folder / "data" / "kernels" / name
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": command, "display_name": name, "language": "python", "env": {"PYTHONPATH": str(packages)}}
        (folder / "kernel.json").write_text(json.dumps(spec))

    def settle(self) -> None:
        """End what a test has left running, so that the next may have the kernel; if that fails, end it too."""
        store = Store(self.root)
        live = [job.job_id for job in records_of(store)[0] if not job.status.terminal]
        for job_id in live:
            store.request(job_id, "stop")
        for kernel in self.call("/api/kernels"):
            if kernel["id"] == self._shared:
                self.call(f"/api/kernels/{self._shared}/interrupt", "POST")
            else:
                self.call(f"/api/kernels/{kernel['id']}", "DELETE")
        give_up_at = time.monotonic() + 20
        while any(not store.observe(job_id).status.terminal for job_id in live):
            if time.monotonic() > give_up_at:
                self.end_kernels()
                break
            time.sleep(0.05)

    def end_kernels(self) -> None:
        """End all kernels, and with them their thread jobs."""
        for kernel in self.call("/api/kernels"):
            self.call(f"/api/kernels/{kernel['id']}", "DELETE")

    def close(self) -> None:
        """End the server and all that it started."""
        try:
            if self.process.poll() is None:
                self.end_kernels()
        finally:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(5)


class Notebook:
    """A notebook in a page."""

    def __init__(self, page: Page, lab: Lab) -> None:
        self.page, self.lab = page, lab

    def open(self, name: str) -> Notebook:
        """Open a notebook alone in the page, and wait until its kernel answers."""
        self.page.goto(f"{self.lab.url}/{self.lab.page.format(name=name)}token={self.lab.token}")
        self.ready()
        return self

    def ready(self) -> None:
        """Wait until the notebook is there and its kernel answers."""
        self.page.wait_for_function(
            f"() => window.jupyterapp"
            f" && {_NOTEBOOK}?.sessionContext?.session?.kernel?.connectionStatus === 'connected'"
            f" && {_NOTEBOOK}.content?.widgets?.length"
        )
        self.page.evaluate(
            f"async () => {{ await {_NOTEBOOK}.context.ready; await {_NOTEBOOK}.sessionContext.ready;"
            f" await {_NOTEBOOK}.sessionContext.session.kernel.info; }}"
        )

    def run(self, index: int, *, wait: bool = True) -> None:
        """Run a cell; its errors are ours."""
        self.page.evaluate(
            f"([i, wait]) => {{ const nb = {_NOTEBOOK}.content; nb.activeCellIndex = i; nb.deselectAll();"
            " const done = window.jupyterapp.commands.execute('notebook:run-cell');"
            " return wait ? done.then(() => 1) : 1; }",
            [index, wait],
        )
        if wait:
            errors = [out for out in self.outputs(index) if out["output_type"] == "error"]
            assert not errors, "\n".join(errors[0]["traceback"])

    def outputs(self, index: int) -> list[dict[str, Any]]:
        """Return what the notebook would store of a cell's output."""
        return self.page.evaluate(  # type: ignore[no-any-return]
            f"i => {_NOTEBOOK}.content.widgets[i].model.outputs?.toJSON() || []", index
        )

    def output(self, index: int) -> Locator:
        """Return where a cell's output is in the page."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index).locator(".jp-OutputArea-output")

    def command(self, name: str, **arguments: Any) -> None:
        """Execute a command of JupyterLab."""
        self.page.evaluate(
            "([name, args]) => window.jupyterapp.commands.execute(name, args).then(() => 1)", [name, arguments]
        )

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate(f"() => {_NOTEBOOK}.context.save()")

    def restart_kernel(self) -> None:
        """Restart the kernel, without the question."""
        self.page.evaluate(f"() => {_NOTEBOOK}.sessionContext.session.kernel.restart()")
        self.ready()

    def theme(self, name: str) -> None:
        """Switch JupyterLab's theme."""
        self.command("apputils:change-theme", theme=name)
        self.page.wait_for_function("name => document.body.dataset.jpThemeName === name", arg=name)
