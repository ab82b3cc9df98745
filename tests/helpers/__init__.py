"""What the tests share: peers driven by hand, counters, gates and an emulated link."""
