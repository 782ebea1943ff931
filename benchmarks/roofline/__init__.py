"""The static roofline: predicts from its machine code alone what bounds each GPU kernel (docs/roofline.md)."""
