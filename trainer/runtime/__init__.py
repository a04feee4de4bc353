"""Devices, processes, folders and logs of a training run."""
