"""Evaluations: one file a task, each with the same methods, settings and results.

`counterfact.run` and `conflicts.run` take a SteeredModel and a data folder, and return a `Result`.
"""
