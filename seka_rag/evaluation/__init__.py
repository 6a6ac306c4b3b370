"""Evaluations: one file a task, each with the same methods, settings and results.

`run` of counterfact, conflicts, positions and instructions takes a SteeredModel and a data folder,
and returns a `Result`.
"""
