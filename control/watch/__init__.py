"""``./testbed watch``: how the validators of an inventory are, as they say themselves, and how far its run is."""
