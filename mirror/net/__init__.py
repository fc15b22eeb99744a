"""Resolving and checking the hosts that Everref connects to."""
