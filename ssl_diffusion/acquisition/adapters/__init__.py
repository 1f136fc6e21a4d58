"""Strategies for other libraries, and other libraries' strategies here."""
