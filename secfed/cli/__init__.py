"""The commands. Each file is one group; what it needs it imports inside its commands."""
