"""chadthrottle and what a user would pick instead, on the same traffic, side by side (docs/accuracy.md)."""
