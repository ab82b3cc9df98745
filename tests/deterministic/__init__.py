"""The engine under a scheduler of the tests' own: one thread runs at a time, and a plan says which.

``world`` is the scheduler: it stands in for ``threading`` and ``time`` inside muxado. ``link``
joins two sessions in memory. ``plans`` say what is done by whom, and in which order the threads
take turns; all of it is numbers, so a failure is printed and replayed. ``run`` carries them out,
and ``oracle`` knows what the applications may see. ``python -m tests.deterministic`` looks for
failures for as long as wanted.
"""
