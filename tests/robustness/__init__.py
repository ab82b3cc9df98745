"""What a session survives: hostile peers, lost connections, exhausted resources, long use."""
