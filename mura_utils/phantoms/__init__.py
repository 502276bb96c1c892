"""Phantoms: procedural radiographs in MURA's folder layout, for a machine without data."""
