"""One set of tests, run over every kind of pipe.

A pipe is two connected ends. The same tests run over real TCP sockets, a `socketpair`, a TLS
connection and muxado's streams, so what a stream does differently from a socket is a failing test.
What a real socket is known to do differently from TCP is said once, in `pipes.py`.

    pytest tests/conformance               # all kinds
    pytest tests/conformance -k tcp        # one kind
"""
