"""Tools of invented names and call formats, to be learnt from examples in the context.

    World = tools (name, kind, argument order, keys) + one syntax of calls

Nothing of a world is known beforehand: its names are made up, its calls are framed and separated in
ways of its own, what its tools answer follows from a hash. Words, pieces of syntax, whole syntaxes
and argument orders are split in two by hash: what a model was trained on, and what it never saw.
"""

from m2gym.tasksets.tool_worlds.syntax import Syntax
from m2gym.tasksets.tool_worlds.world import Episode, Tool, World

__all__ = ["Episode", "Syntax", "Tool", "World"]
