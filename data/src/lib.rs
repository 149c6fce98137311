//! Text and tokens in: tokenizers, sources, packing, the resumable order of samples.
