"""The taskset ``swe-repo``: real repositories from the package registry.

A `recipe` is the facts of a task, `repository` builds its files, `recipe_taskset` makes a taskset
of recipes, and `shipped` is the one that comes with m2gym. `release` is a release ready to be
worked on; `splits` and `unsteady` are tables (which packages are ``test``'s, which tests race);
`tried` reads what was tried to make the set.
"""
