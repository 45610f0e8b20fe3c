"""Everything that can be asked of a device, in one run on a machine seen for the first time."""
