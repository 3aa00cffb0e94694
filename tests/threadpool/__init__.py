"""The first floor's tests."""
