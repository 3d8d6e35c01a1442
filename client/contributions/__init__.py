"""Makes what a platform contributes to the federation: one module a kind."""
