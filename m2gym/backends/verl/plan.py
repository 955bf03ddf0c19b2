"""The name under which everything of ours is registered with verl."""

NAME = "m2gym"
