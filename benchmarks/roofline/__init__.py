"""The static roofline: what bounds each GPU kernel, from its machine code alone (docs/roofline.md)."""
