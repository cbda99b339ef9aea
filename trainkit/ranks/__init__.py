"""Several processes that train one model together, and act as one."""
