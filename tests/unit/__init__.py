"""The parts that need no socket and no thread: codecs, flow control, the protocol, the schedule."""
