"""Configuration files: TOML in, frozen models out, and the same models out as commented TOML.

An unknown key, a wrong type or a senseless value is a `ConfigError` that names file, line and
key, before anything else happens. Relative paths are relative to the file they stand in.
"""

from secfed.config.models import (
    AdminConfig,
    AggregatorConfig,
    BudgetPolicy,
    ClientConfig,
    DataConfig,
    JobPolicy,
    PolicyConfig,
    check_dialled,
    split_address,
)
from secfed.config.toml import checked, load, to_toml

__all__ = [
    "AdminConfig",
    "AggregatorConfig",
    "BudgetPolicy",
    "ClientConfig",
    "DataConfig",
    "JobPolicy",
    "PolicyConfig",
    "check_dialled",
    "checked",
    "load",
    "split_address",
    "to_toml",
]
