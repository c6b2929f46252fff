"""Damaged and hostile files of every kind that users read from others: what becomes of them.

    python -m tests.fuzz --cases 1000 --seed 0
    python -m tests.fuzz --seed 0 --kind shard --case 17     once more, in this process

`kinds.py` is the table of kinds, `mutations.py` are the ways to damage, `case.py` is what a case is
and how it can end, `workers.py` the processes that it happens in, `report.py` what is printed; the
others make genuine files of a kind, and read them.
"""
