"""Labels from and for other programs, as files."""
