"""Values that the whole program speaks in: frozen, checked when made, without I/O or clock."""
