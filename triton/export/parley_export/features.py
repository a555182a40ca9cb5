"""What a transformers feature extractor does, written down for gateway.triton.models.features."""

from __future__ import annotations

from typing import Any

from gateway.triton.models.features import complete

KINDS = {
    "WhisperFeatureExtractor": "whisper",
    "ParakeetFeatureExtractor": "nemo",
    "NemotronAsrStreamingFeatureExtractor": "nemo",
}


def feature_settings(extractor: Any) -> dict[str, Any]:
    """front.json's "features" of a transformers extractor. Raises: ValueError, in a sentence, for one that Parley's
    features do not reproduce."""
    name = type(extractor).__name__
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"{name} is unknown; features are made like {', '.join(KINDS)}")
    settings: dict[str, Any] = {
        "kind": kind,
        "mels": int(extractor.feature_size),
        "rate": int(extractor.sampling_rate),
        "n_fft": int(extractor.n_fft),
        "hop": int(extractor.hop_length),
    }
    if kind == "whisper":
        settings |= {"window": int(extractor.n_fft), "pad_s": float(extractor.chunk_length)}
    else:
        settings |= {
            "window": int(extractor.win_length),
            "preemphasis": float(extractor.preemphasis or 0.0),
            "normalize": "per_feature" if name == "ParakeetFeatureExtractor" else "none",
        }
    if getattr(extractor, "mel_filters_dtype", "float32") != "float32":
        raise ValueError(
            f"{name} rounds its mel filters to {extractor.mel_filters_dtype}, which Parley does not"
        )
    complete(settings)
    return settings
