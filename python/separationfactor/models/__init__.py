"""Reference models: models that use the layers, and their baselines."""

from separationfactor.models.completion import CompletionBaseline, CompletionVAE
from separationfactor.models.conditional_vae import ConditionalVAE
from separationfactor.models.k_sparse_autoencoder import KSparseAutoencoder

__all__ = ["CompletionBaseline", "CompletionVAE", "ConditionalVAE", "KSparseAutoencoder"]
