"""Limits the bandwidth of running programs with BPF."""

__version__ = "0.1.0"
