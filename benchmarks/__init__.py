"""The same work over streams and over plain connections, side by side: ``python -m benchmarks``.

``scenarios`` lists what is measured. ``work`` and ``latency`` do it, once for all peers, in terms
of ``connect()`` and ``accept()``, with what ``parts`` offers; ``peers`` says whose connections
those are, ``others`` adds those of other projects; ``worker`` is what the child processes of
Python's peers run, and ``go/`` those of Go's; ``runner`` starts them, interleaves the rounds and
measures; ``report`` and ``plot`` show the figures; ``__main__`` is the command.
"""
