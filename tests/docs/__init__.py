"""What the documentation says is true: examples, guarantees, the order of the modules."""
