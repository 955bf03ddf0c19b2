"""Task folders in Harbor's format, read and written.

`folder` is a taskset over them. `settings` reads ``task.toml``, whose `table` refuses by name what
it does not know; `parts` makes reward and hidden files of folders, `dockerfile` finds where files
go. `export` writes our own tasks as such folders, with `judge` to grade them there.
"""
