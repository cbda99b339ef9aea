"""Training on tables: reading, features, network, and the training function itself.

Nothing heavy is imported here; ``trainkit.tabular.options`` needs neither torch nor pandas.
"""
