"""Sessions, streams and listeners as their users see them."""
