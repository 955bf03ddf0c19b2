"""Rows in SWE-bench's fields as tasks.

`rows` reads and checks them, `files` takes their trees from the user's checkouts, `taskset` makes
tasks of both (`m2gym.tasksets.swe_bench`).
"""
