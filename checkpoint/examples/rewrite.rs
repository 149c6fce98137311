//! `cargo run --example rewrite FROM TO`: a Hugging Face directory, written again as our checkpoints of its model are: in
//! the spelling of a class of transformers where one computes the same.
use checkpoint::{CheckpointError, HfDir, Save};
use model::models;
use std::path::Path;
use std::process::ExitCode;

#[allow(clippy::disallowed_methods)] // an example has a command line of its own
fn main() -> ExitCode {
    let [from, to] = match std::env::args().skip(1).collect::<Vec<_>>().try_into() {
        Ok(paths) => paths,
        Err(_) => {
            eprintln!("usage: rewrite FROM TO");
            return ExitCode::FAILURE;
        }
    };
    match rewrite(Path::new(&from), Path::new(&to)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rewrite(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    let from = HfDir::open(from)?;
    let save = Save::create(to, from.decoder(), models::directory(from.decoder()), false)?;
    from.copy_to(&save)?;
    save.publish()
}
