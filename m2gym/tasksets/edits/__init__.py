"""Changes of Python source text, made from its syntax; nothing of it runs.

`changes` cuts the step between two texts into hunks. `mutate` makes a mistake of one of fifteen
kinds (`operators`) at a place of a `module`, by a seed; `slips` makes finer ones, in one
expression. `rewrite` writes the same code differently without a change of behaviour: functions by
`rewrites`, tables and constants by `respell`.
"""
