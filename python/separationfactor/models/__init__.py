"""Reference models that use the layers."""

from separationfactor.models.conditional_vae import ConditionalVAE

__all__ = ["ConditionalVAE"]
