"""Corrupted and hostile files of every kind that users read from others.

    python -m tests.fuzz --cases 1000 --seed 0
    python -m tests.fuzz --seed 0 --kind shard --case 17     repeat one case in this process

`kinds.py` has the table of kinds, `mutations.py` the ways to corrupt a file, `case.py` cases and
their outcomes, `workers.py` the processes that run them, `report.py` the report; the other files
write and read valid files of a kind.
"""
