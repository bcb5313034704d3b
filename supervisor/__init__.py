"""A supervisor for native llama-server binaries: one endpoint, models on demand, failures that explain themselves."""

__version__ = "0.1.0"
