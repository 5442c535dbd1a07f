"""Optimizers, their parameter groups, and schedules as functions of the step. Free of Lightning."""
