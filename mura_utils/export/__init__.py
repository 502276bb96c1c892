"""A trained run for other programs and other machines."""
