"""Tasks by injected bugs.

`finder` looks through one release for mistakes that its own tests show; `inject` does it for any
package in one call. `produce` makes those that ship with m2gym, `restate` writes their statements
anew, `bench` says how fast they are made.
"""
