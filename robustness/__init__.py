"""Trials that take minutes: trainings killed over and over, weeks of use in an hour, PyTorch as a judge."""
