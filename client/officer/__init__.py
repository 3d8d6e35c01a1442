"""Drafts what an officer writes, and adds up what a platform spent: draft documents, and ε over several federations."""
