"""Orders of events between threads that are rare, and that these tests force."""
