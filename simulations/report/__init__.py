"""What a person reads of a run: tables in the terminal, and pages that open offline."""
