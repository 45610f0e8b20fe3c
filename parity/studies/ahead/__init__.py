"""The training epoch, compiled for devices that this machine lacks."""
