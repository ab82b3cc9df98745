"""Our sessions against the originals: the tests of each peer skip where it is not installed.

With ``MUXADO_REQUIRE_INTEROP=1`` in the environment they fail instead.
"""
