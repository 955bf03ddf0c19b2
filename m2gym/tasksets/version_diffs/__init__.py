"""Tasks from two releases: the older one's source under the newer one's tests.

`version_diff` makes them in one call. `pair` is two releases ready to be measured, `split` takes
their step apart by the tests that belong together, and `apart` names faults that it leaves
together. `narrow` leaves out of a reference change what no test sees. `pairs` measures many, and
`ship` writes those that ship with m2gym.
"""
