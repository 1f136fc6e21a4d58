"""Studies: strategies x budgets x seeds, paired, with statistics."""
