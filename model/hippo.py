"""HiPPO-LegS initialisation of a diagonal state-space layer (S5, arXiv 2208.04933, appendix B.1.1)."""

from __future__ import annotations

import functools

import numpy as np


@functools.lru_cache
def legs_eigenvalues(num_states: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues lambda_N (complex, positive imaginary half) and eigenvectors v_PN of HiPPO-LegS's normal part, P =
    2N.

    HiPPO-LegS A[n,k] = -sqrt(2n+1) sqrt(2k+1) below the diagonal and -(n+1) on it. A + p p^T with p[n] = sqrt(n + 1/2)
    is
    normal: -1/2 I plus a skew-symmetric matrix, so the eigenvectors are those of a Hermitian matrix and every real
    part is -1/2.
    """
    n = np.arange(2 * num_states, dtype=np.float64)
    root = np.sqrt(2 * n + 1)
    legs = -np.tril(np.outer(root, root), -1) - np.diag(n + 1)
    normal = legs + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    real = np.mean(np.diag(normal))
    imaginary, vectors = np.linalg.eigh((normal - real * np.eye(len(n))) * -1j)
    upper = imaginary > 0
    return real + 1j * imaginary[upper], vectors[:, upper]
