"""This platform's part in secure sums: masking, enrolment, answers to lists of survivors, and their state on disk."""
