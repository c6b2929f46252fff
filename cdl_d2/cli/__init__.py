"""The command `cdl`: arguments and calls."""
