"""secfed: sites that may not share data fine-tune one language model together.

Each site trains privately, masks its update so that only the sum can be read, and keeps
the account of what its data has spent. This package's root holds the version and nothing else.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
