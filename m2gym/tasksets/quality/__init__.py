"""How good the tasks are.

`patches` makes wrong and right patches of a task, `grader` verifies one task with them,
`verify_tasks` all that are shipped, whose results lie in a file (`verified`). `funnel` adds up
what was tried and why the rest is not shipped.
"""
