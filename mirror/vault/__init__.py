"""The vault, where bundles and manifests are stored: one contract, two stores, a directory and S3."""

from mirror.vault.contract import Capabilities, PutLink, Stat, Unfinished, Vault, Writer
from mirror.vault.open import open_vault

__all__ = ["Capabilities", "PutLink", "Stat", "Unfinished", "Vault", "Writer", "open_vault"]
