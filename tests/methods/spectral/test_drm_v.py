"""The vertical direction is the horizontal one of transposed matrices."""

from __future__ import annotations

from tests.methods.spectral.matrices import close, deltas, merged


def test_of_transposed_matrices_it_is_drm_h() -> None:
    for rows, columns in ((12, 20), (20, 12)):
        models = deltas(3, rows, columns)
        given = {"density": 0.3, "weight": (1.0, 0.5, 2.0), "disjoint": False}
        turned = merged("drm_h", [m.t().contiguous() for m in models], **given)
        close(merged("drm_v", models, **given), turned.t())
