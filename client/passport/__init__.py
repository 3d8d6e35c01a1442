"""The passport: what sums up a person's tastes travels with the person, signed by one platform and sealed to another."""
