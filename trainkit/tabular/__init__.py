"""Training on tables: reading, features, network, and the training function itself.

Nothing heavy is imported here; ``trainkit.tabular.options`` needs neither torch nor pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainkit.training.run import Run


def train_function(run: Run, data: Any = None, **options: Any) -> Any:
    """Call :func:`trainkit.tabular.fit.fit`, which imports torch only where the training is done.

    Args:
        run: the job, from within.
        data: a table, the path of one, or None for a synthetic one.
        **options: see :class:`~trainkit.tabular.options.TrainOptions`.
    """
    from trainkit.tabular.fit import fit

    return fit(run, data, **options)
