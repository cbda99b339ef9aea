"""Which folders and files a request may reach: those below the server's root folder, with all links followed."""

from __future__ import annotations

import os
from pathlib import Path

from trainkit.api.job import Job
from trainkit.errors import UnknownJobError
from trainkit.files.paths import check_job_id, jobs_folder, models_folder
from trainkit.files.store import Store
from trainkit.server.problems import RefusedError


class Roots:
    """The folders that a server may use.

    Args:
        server: the root folder of the Jupyter server.
        default: the root of the jobs where a request names none; need not be below ``server``.
    """

    def __init__(self, server: Path, default: Path) -> None:
        self.server = server.resolve()
        self.default = default.resolve()

    def store(self, given: str | None) -> Store:
        """Return the store that a request means.

        Args:
            given: absolute, or relative to the server's root folder.

        Raises:
            RefusedError: 403 outside of the allowed folders, whether there is such a folder or not; 404 where
                there is none.
        """
        folder = self.default if given is None else self.below(given, self.server)
        try:
            there = folder.is_dir()
        except OSError:  # a name longer than the file system takes, say
            there = False
        if not there:
            raise RefusedError(404, f"root: there is no folder {given or str(folder)!r:.200}")
        for own in (jobs_folder(folder), models_folder(folder)):
            self._check(own, "root")
        return Store(folder)

    def below(self, given: str, base: Path) -> Path:
        """Return the resolved path of what a request names.

        Args:
            given: absolute, or relative to ``base``.
            base: a folder.

        Raises:
            RefusedError: 403 for what lies outside of the allowed folders.
        """
        return self._check(base / given, given)

    def job(self, store: Store, job_id: str) -> Job:
        """Return a job after a look at its files: a link among them could lead out of the root.

        Raises:
            JobIdError: not a job id.
            UnknownJobError: no such job.
            RefusedError: 403, a file of the job is a link.
            RecordError: its record is damaged.
        """
        self.check_files(store, job_id)
        return Job(job_id, store)

    def check_files(self, store: Store, job_id: str) -> None:
        """Let a job pass that has a record and no links among its files.  Raises as :meth:`job`."""
        paths = store.paths(check_job_id(job_id))
        if not os.path.lexists(paths.record):
            # Without the nearest id: to look through all ids for each wrong one would take long.
            raise UnknownJobError(f"no job {job_id!r} under {store.root}")
        files = [paths.record, paths.folder, paths.model]
        if paths.folder.is_dir() and not paths.folder.is_symlink():
            files += [Path(entry.path) for entry in os.scandir(paths.folder)]
        for file in files:
            if file.is_symlink():
                raise RefusedError(
                    403, f"{file.name} of job {job_id!r} is a link; a link among a job's files is not followed"
                )

    def _check(self, path: Path, shown: str) -> Path:
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError, ValueError):  # links in a circle; a NUL
            raise RefusedError(403, f"{shown!r:.200} cannot be resolved to a path") from None
        if not any(resolved == base or base in resolved.parents for base in (self.server, self.default)):
            raise RefusedError(
                403,
                f"{shown!r:.200} is not below the server's root folder. Use a path below it, or start the server "
                "in (or set TrainkitApp.root to) a folder above both",
            )
        return resolved
