//! What people write: run files, InternEvo's Python configs, profiles of machines, edited programs.
use super::super::text;
use super::{Reader, of_text, read_text, repository, write};
use crate::config::RunConfig;
use crate::job::Job;
use schedule::{Action, text as programs};
use std::path::Path;

pub fn run_file(folder: &Path) -> Reader {
    let root = repository();
    let good = vec![
        read_text(&root.join("configs/demo.toml")),
        read_text(&root.join("pyconfig/tests/configs/every_key.toml")),
    ];
    of_text(folder.join("run.toml"), good, loads)
}

/// As `internevo train` does before it looks at ranks and data.
fn loads(file: &Path) -> bool {
    RunConfig::load(file, &[]).is_ok_and(|config| !config.toml().is_empty())
}

/// A config and the bases that it imports: any of the three is damaged.
pub fn python(folder: &Path) -> Reader {
    let root = repository().join("pyconfig/tests");
    let names = ["configs/every_key.py", "configs/_base_/runtime.py", "configs/_base_/models/small.py"];
    let good: Vec<String> = names.map(|name| read_text(&root.join(name))).into();
    let files = names.map(|name| folder.join(name));
    files.iter().zip(&good).for_each(|(file, text)| write(file, text));
    assert!(loads(&files[0]), "a good config is refused");
    Box::new(move |numbers| {
        let at = numbers.below(files.len());
        write(&files[at], text::damaged(numbers, &good[at], &good));
        let accepted = loads(&files[0]);
        write(&files[at], &good[at]);
        accepted
    })
}

pub fn profile(folder: &Path) -> Reader {
    let good = ["cpu", "h100"].map(|name| read_text(&repository().join(format!("profiles/{name}.toml"))));
    of_text(folder.join("machine.toml"), good.into(), |file| {
        let text = std::fs::read(file).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        text.is_some_and(|text| sim::Profile::parse(&text).is_ok())
    })
}

const RUN: &str = r#"
name = "run"
[model]
family = "llama"
vocab_size = 32
hidden_size = 16
num_hidden_layers = 4
num_attention_heads = 4
intermediate_size = 32
[data]
kind = "random"
seq_len = 8
micro_batch_size = 1
[train]
steps = 1
micro_batches = 2
"#;

/// `--program FILE`, under several layouts.
pub fn program(folder: &Path) -> Reader {
    let run = folder.join("run.toml");
    write(&run, RUN);
    let layouts = [
        (1, vec![]),
        (2, vec!["parallel.zero.stage=3"]),
        (2, vec!["parallel.pipeline.size=2"]),
        (2, vec!["parallel.pipeline.size=2", "parallel.pipeline.schedule=\"zbv\"", "memory.recompute=1.0"]),
    ];
    let mut readers: Vec<Reader> = layouts
        .iter()
        .map(|(ranks, set)| {
            let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
            let config = RunConfig::load(&run, &set).expect("a good run file");
            let job = Job::new(&config, config.model.decoder(32), 0, *ranks).expect("a good layout");
            let actions: Vec<Vec<Action>> = job
                .programs()
                .expect("they are proved")
                .into_iter()
                .map(|mut r| r.programs.remove(0).actions)
                .collect();
            let good = programs::print(&job.plan, &actions);
            of_text(folder.join("program.txt"), vec![good], move |file| job.programs_from(file).is_ok())
        })
        .collect();
    Box::new(move |numbers| {
        let at = numbers.below(readers.len());
        readers[at](numbers)
    })
}
