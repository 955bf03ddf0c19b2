"""Sources of tasks: real repositories from the package registry, folders of tasks, and lists."""
