//! Opt-in: converts the configs of a checkout of the original.
//!
//! `INTERNEVO_CONFIGS=path/to/InternEvo/configs cargo test -p pyconfig --test folder -- --nocapture`
use std::path::{Path, PathBuf};

/// A mixture of experts, or a model family of later versions.
const NOT_SUPPORTED: [&str; 2] = ["a mixture of experts is not supported", "is not mapped"];

#[test]
#[allow(clippy::disallowed_methods)] // a test reads the folder that it is told
fn configs_of_the_original_convert() {
    let Some(folder) = std::env::var_os("INTERNEVO_CONFIGS") else {
        println!("skipped: INTERNEVO_CONFIGS names no folder of configs");
        return;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("INTERNEVO_CONFIGS is a folder")
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "py"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no .py in {}", Path::new(&folder).display());
    let read = |path: &Path| std::fs::read(path);
    let mut failed = vec![];
    for file in &files {
        match pyconfig::convert(file, &read) {
            Ok(converted) => {
                let text = converted.text("");
                assert_eq!(text.parse::<toml::Table>().expect("the text is TOML"), converted.toml);
                println!("{}: {} notes", file.display(), converted.notes.len());
            }
            Err(problems) => {
                println!("{}: refused\n  {}", file.display(), problems.join("\n  "));
                if !problems.iter().any(|p| NOT_SUPPORTED.iter().any(|reason| p.contains(reason))) {
                    failed.push(file);
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
