"""Reference models: those that use the layers, and those that they are compared with."""

from separationfactor.models.completion import CompletionBaseline, CompletionVAE
from separationfactor.models.conditional_vae import ConditionalVAE
from separationfactor.models.k_sparse_autoencoder import KSparseAutoencoder

__all__ = ["CompletionBaseline", "CompletionVAE", "ConditionalVAE", "KSparseAutoencoder"]
