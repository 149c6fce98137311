//! JSON files, with the path in every error.
use crate::error::{CheckpointError, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs;
use std::path::Path;

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(CheckpointError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|cause| CheckpointError::Json { path: path.into(), cause })
}

pub(crate) fn write(path: &Path, value: &Value) -> Result<()> {
    fs::write(path, format!("{value:#}\n")).map_err(CheckpointError::io("write", path))
}
