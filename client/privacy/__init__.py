"""Guards the platform: ledger, egress guard, journal, secure sum, privacy card."""
