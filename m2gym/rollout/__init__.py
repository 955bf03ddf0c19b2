"""One episode and many: the driver, evaluations that survive a kill, and run folders."""
