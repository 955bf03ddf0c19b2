"""Problem statements: written from what failing tests show, and checked.

`describe` puts failures into sentences, `scene` shows a failing test's own lines, `retell` takes
either for each test of a version-diff. `check` finds what gives the fix away and what is missing:
`evidence` is what it checks against, `needs` what the tests demand, `prose` whether it can be read.
"""
