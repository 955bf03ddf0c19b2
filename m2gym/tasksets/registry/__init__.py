"""Files of the package registry and the boxes they are used in.

`fetch` has the user's pip (`pip_client`) find and download them, by hash, into the `cache`, and
`progress` shows it. `sdist` unpacks an archive and says which of its files are source, tests and
changelogs; `imports` reads what they import and `resolve` pins what that needs, `pinned` is the
table of what is pinned already. `site` puts it all in a box, beside an interpreter, where other
copies of the package are hidden (`host` finds them). Nothing here knows of a task.
"""
