"""Who holds which model of one Triton, and who changes what: a table that lives in Triton itself."""
