"""What schemathesis sends: in half of its requests the id of a job that is there, and the root that is meant."""

from __future__ import annotations

import os
import re
from typing import Any

import schemathesis

from trainkit.files.paths import JOB_ID_PATTERN

JOB_ID = os.environ.get("TRAINKIT_TEST_JOB", "a-job")  # pytest, too, imports this module


def _real(fields: Any) -> Any:
    """Replace what is valid only: what breaks the schema on purpose is to be sent as it is."""
    if isinstance(fields, dict):
        job_id, root = fields.get("job_id"), fields.get("root")
        if isinstance(job_id, str) and re.fullmatch(JOB_ID_PATTERN, job_id) and len(job_id) % 2:
            fields["job_id"] = JOB_ID
        if isinstance(root, str) and 1 <= len(root) <= 4096 and len(root) % 2:
            del fields["root"]
    return fields


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Name a real job in the address."""
    return _real(query)


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Name a real job in the body."""
    return _real(body)
