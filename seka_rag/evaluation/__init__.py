"""Evaluations: one file a task, one a rival, and a harness that runs any task under any method."""
