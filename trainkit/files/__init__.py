"""The files of a job: their names, who writes them, who owns them, and how they are read."""
