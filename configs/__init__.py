"""One file per experiment or paper; each has `get_config(variant="") -> ConfigDict`."""
