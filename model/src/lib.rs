//! What is computed: the parameter table, the decoder's half-blocks, the model families.
