//! Configs in memory.
#![allow(dead_code)] // each test uses some of it
use pyconfig::Converted;
use std::collections::HashMap;
use std::io::{Error, ErrorKind};
use std::path::Path;

/// A whole config in few lines; tests change one of them.
pub const SMALL: &str = r#"
JOB_NAME = "small"
model_type = "INTERNLM2_PUBLIC"
ckpt = dict(enable_save_ckpt=False, auto_resume=False)
data = dict(seq_len=8, micro_bsz=2, total_steps=10)
hybrid_zero_optimizer = dict(clip_grad_norm=1.0)
adam = dict(lr=1e-3)
model = dict(
    dtype="torch.float32",
    vocab_size=32,
    hidden_size=64,
    num_layers=4,
    num_attention_heads=4,
)
"#;

/// Converts the first file; others are there to be imported.
pub fn convert_files(files: &[(&str, &str)]) -> Result<Converted, Vec<String>> {
    let texts: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
    let read = |path: &Path| match texts.get(path) {
        Some(text) => Ok(text.as_bytes().to_vec()),
        None => Err(Error::from(ErrorKind::NotFound)),
    };
    pyconfig::convert(Path::new(files[0].0), &read)
}

pub fn convert(text: &str) -> Result<Converted, Vec<String>> {
    convert_files(&[("run.py", text)])
}

#[track_caller]
pub fn converted(text: &str) -> Converted {
    convert(text).unwrap_or_else(|problems| panic!("{text}\n{}", problems.join("\n")))
}

/// The value of a dotted key.
pub fn at(converted: &Converted, key: &str) -> Option<toml::Value> {
    let mut keys = key.split('.');
    let first = converted.toml.get(keys.next()?)?.clone();
    keys.try_fold(first, |value, key| value.get(key).cloned())
}

/// [`SMALL`] with keywords added to a section, or a line at the end.
pub fn with(section: &str, more: &str) -> String {
    if section.is_empty() {
        return format!("{SMALL}{more}\n");
    }
    let begin = format!("{section} = dict(");
    if !SMALL.contains(&begin) {
        return format!("{SMALL}{begin}{more})\n");
    }
    // A later keyword of the same name would be a syntax error, so the old section is spliced in.
    format!("{SMALL}{section} = dict({section}, {more})\n")
}
