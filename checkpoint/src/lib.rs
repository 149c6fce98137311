//! State out and back, by parameter name: Hugging Face directories and training state.
