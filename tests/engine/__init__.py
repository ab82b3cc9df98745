"""How threads share one connection: who reads, who writes, who is woken, and what that costs."""
