"""What an officer writes and adds up about a platform: draft documents, and ε over several federations."""
