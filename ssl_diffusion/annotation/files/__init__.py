"""Import and export of labels as files."""
