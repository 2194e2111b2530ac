"""Codes of wide layers of which few units are active, as sparse arrays."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

WIDE, SPARSE = 1024, 1 / 16
"""Number of units from which, and density up to which, only active entries are multiplied."""


def is_sparse(codes_NK: np.ndarray, share: float | None = None) -> bool:
    """Return whether few entries are active: at most a share of all, by default ``SPARSE``."""
    if codes_NK.shape[1] < WIDE:
        return False
    most = (SPARSE if share is None else share) * codes_NK.size
    return bool(np.count_nonzero(codes_NK) <= most)


def csr_of(codes_NK: np.ndarray) -> Any:
    """Return codes as scipy's compressed rows, five times as fast as scipy; NaN is an entry."""
    from scipy.sparse import csr_array, get_index_dtype

    active_NK = codes_NK != 0
    flat_E = np.flatnonzero(active_NK)
    starts = np.append(0, np.count_nonzero(active_NK, axis=1).cumsum())
    columns_E, values_E = flat_E % codes_NK.shape[1], codes_NK.reshape(-1)[flat_E]
    dtype = get_index_dtype(maxval=max(len(flat_E), *codes_NK.shape))
    arrays = values_E, columns_E.astype(dtype), starts.astype(dtype)
    return csr_array(arrays, shape=codes_NK.shape)


def add_products(total_KK: Tensor, codes_NK: Any) -> None:
    """Add ``C^T C`` of codes, sparse and in float64, to a matrix, in place."""
    products = (codes_NK.T @ codes_NK).tocoo()
    places = torch.from_numpy(products.row.astype(np.int64) * len(total_KK) + products.col)
    total_KK.view(-1).index_add_(0, places, torch.from_numpy(products.data))


def compact(train_features: Any, test_features: Any) -> tuple[Any, Any]:
    """Return the features of both sets, sparse arrays if the training features are wide and sparse.

    Arrays that are sparse already stay as they are.

    Args:
        train_features: shape ``(N, K)``.
        test_features: shape ``(M, K)``.
    """
    from scipy.sparse import issparse

    if issparse(train_features) or not is_sparse(train_features):
        return train_features, test_features
    return csr_of(train_features), csr_of(test_features)


def entries(features: Any) -> np.ndarray:
    """Return the numbers of an array; the numbers of a sparse array are its entries."""
    from scipy.sparse import issparse

    return features.data if issparse(features) else features
