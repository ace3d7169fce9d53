"""The inner loops of the trainings, compiled for this machine."""
