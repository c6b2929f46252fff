"""The whole method on sample data: train, measure, and write a report."""
