"""Agents of a user's own, for tests of what trains them."""
