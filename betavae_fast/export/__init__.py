"""Writes a trained model in the formats that other programs load: ONNX, torch.export, the Hugging Face Hub's folder."""

from betavae_fast.export.hub import write_hub
from betavae_fast.export.onnx import write_onnx
from betavae_fast.export.pt2 import write_pt2

__all__ = ["write_hub", "write_onnx", "write_pt2"]
