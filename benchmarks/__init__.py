"""The same work over streams and over plain connections, side by side: ``python -m benchmarks``.

``scenarios`` says what is done, once for all peers, in terms of ``connect()`` and ``accept()``;
``peers`` says whose connections those are; ``worker`` is what the child processes run; ``runner``
starts them, interleaves the rounds and measures; ``__main__`` is the command and the table.
"""
