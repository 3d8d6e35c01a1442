"""From sums over platforms to shared parameters: one module a kind."""
