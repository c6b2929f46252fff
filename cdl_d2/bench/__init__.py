"""What things cost: multiply-adds, time, memory, and rate against accuracy."""
