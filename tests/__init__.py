"""The tests, by subject.

``unit``
    The parts that need no socket and no thread: codecs, flow control, the protocol, the schedule.
``engine``
    How threads share one connection: who reads, who writes, who is woken, and what that costs.
``session``
    Sessions, streams and listeners as their users see them.
``conformance``
    One suite for sockets, run against streams and against real sockets.
``robustness``
    Hostile peers, lost connections, exhausted resources, long use. Two commands are there as well:
    ``python -m tests.robustness.soak`` and ``python -m tests.robustness.leaks``.
``interleaving``, ``deterministic``
    Orders of events between threads: rare ones that a test forces, and any that a scheduler of the
    tests' own chooses (``python -m tests.deterministic``).
``interop``
    Sessions with the originals in Go and Rust.
``fuzz``
    Random bytes from the peer (``python -m tests.fuzz``).
``docs``
    What the documentation says is true: examples, guarantees, the order of the modules.
``benchmarks``
    The benchmarks measure what they say they measure.
``helpers``
    What the others share: peers driven by hand, counters, gates and an emulated link.
"""
