"""The annotation loop."""
