"""The estimator with a decoder, codes and a mixture over them."""

from .estimator import DeepGenerativeDecoder

__all__ = ["DeepGenerativeDecoder"]
