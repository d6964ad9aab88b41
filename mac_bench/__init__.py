"""mac-bench: model-based offline RL with action chunks, its baselines, and honest comparisons."""

__version__ = "0.1.0"
