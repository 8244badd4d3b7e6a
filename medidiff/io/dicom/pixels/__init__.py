"""From stored pixels to the values that they mean."""
