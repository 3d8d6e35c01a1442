"""Reports a run to people: tables in the terminal, and pages that open offline."""
