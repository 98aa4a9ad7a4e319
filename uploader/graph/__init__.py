"""The task graph: `plan` decides what is ready and what became of what, `engine` runs it."""
