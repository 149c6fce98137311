//! The token cache: reused while nothing changed, rebuilt when it is damaged, the same for every thread count.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bench::Bench;
use data::{CacheReport, CacheState, Kind, Tokenizer};

const FILES: [&str; 3] = ["tokens.bin", "documents.bin", "meta.json"];

fn corpus(bench: &Bench) {
    for i in 0..40 {
        bench.write(&format!("text/{i}.txt"), format!("file {i} says: 你好, world! ").repeat(i * 20 + 1));
    }
}

fn open(bench: &Bench) -> (CacheReport, Vec<u32>) {
    let splits = bench.open(&bench.config(Kind::Text, "text")).unwrap();
    let ids = splits.train.eval_batches().take(200).flat_map(|batch| batch.unwrap().ids).collect();
    (splits.caches[0].clone(), ids)
}

fn contents(folder: &Path) -> Vec<Vec<u8>> {
    FILES.iter().map(|name| fs::read(folder.join(name)).unwrap()).collect()
}

fn folders(bench: &Bench) -> Vec<PathBuf> {
    fs::read_dir(bench.path("cache")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_second_open_reuses_it() {
    let bench = Bench::new();
    corpus(&bench);
    let (built, ids) = open(&bench);
    assert_eq!(built.state, CacheState::Built);
    let written = fs::metadata(built.path.join("tokens.bin")).unwrap().modified().unwrap();
    let (reused, ids_again) = open(&bench);
    assert_eq!((reused.state, reused.tokens, ids_again), (CacheState::Reused, built.tokens, ids));
    assert_eq!(fs::metadata(built.path.join("tokens.bin")).unwrap().modified().unwrap(), written);
    assert_eq!(folders(&bench), [built.path], "nothing temporary is left");
}

#[test]
fn another_text_tokenizer_or_key_is_another_cache() {
    let bench = Bench::new();
    corpus(&bench);
    let (first, _) = open(&bench);
    bench.write("text/7.txt", "changed");
    let (second, _) = open(&bench);
    let larger = Tokenizer::train(["ababab"; 9].into_iter(), 258).unwrap();
    let cfg = bench.config(Kind::Text, "text");
    let splits =
        data::open(&cfg, Some(&larger), 258, crate::bench::SEED, crate::bench::STEP, &bench.path("cache")).unwrap();
    bench.write("k.jsonl", "{\"a\": \"xxxxxxxxx\", \"b\": \"yyyyyyyyy\"}\n");
    let keyed = ["a", "b"].map(|key| {
        let mut cfg = bench.config(Kind::Jsonl, "k.jsonl");
        cfg.text_key = key.into();
        bench.open(&cfg).unwrap().caches[0].clone()
    });
    for report in [&second, &splits.caches[0], &keyed[0], &keyed[1]] {
        assert_eq!(report.state, CacheState::Built, "{report}");
    }
    assert_eq!(folders(&bench).len(), 5);
    assert_eq!(first.documents, second.documents);
}

#[test]
fn a_damaged_cache_is_noticed_and_rebuilt() {
    let bench = Bench::new();
    corpus(&bench);
    let (built, ids) = open(&bench);
    let whole = contents(&built.path);
    type Damage = fn(&Path);
    fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }
    fn replace(path: &Path, from: &str, to: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(from));
        fs::write(path, text.replace(from, to)).unwrap();
    }
    let table: [(&str, Damage); 9] = [
        ("tokens.bin is not what was written", |f| edit(&f.join("tokens.bin"), |bytes| bytes.truncate(999))),
        ("tokens.bin is not what was written", |f| edit(&f.join("tokens.bin"), |bytes| bytes[77] ^= 1)),
        ("tokens.bin is not what was written", |f| edit(&f.join("tokens.bin"), |bytes| bytes.push(0))),
        ("documents.bin is not what was written", |f| edit(&f.join("documents.bin"), |bytes| bytes[8] ^= 1)),
        ("documents.bin", |f| fs::remove_file(f.join("documents.bin")).unwrap()),
        ("meta.json: No such file", |f| fs::remove_file(f.join("meta.json")).unwrap()),
        ("meta.json: EOF", |f| edit(&f.join("meta.json"), |bytes| bytes.truncate(30))),
        ("meta.json is of another cache", |f| replace(&f.join("meta.json"), "\"version\": 1", "\"version\": 0")),
        ("meta.json counts other", |f| replace(&f.join("meta.json"), "\"bytes_per_id\": 2", "\"bytes_per_id\": 4")),
    ];
    for (expected, damage) in table {
        damage(&built.path);
        let (rebuilt, ids_again) = open(&bench);
        let CacheState::Rebuilt { why } = &rebuilt.state else { panic!("{expected}: {rebuilt}") };
        assert!(why.contains(expected), "{why}");
        assert!(rebuilt.to_string().starts_with("rebuilt (it was damaged: "), "{rebuilt}");
        assert_eq!(ids_again, ids);
        assert_eq!(contents(&built.path), whole, "{expected}");
    }
    assert_eq!(open(&bench).0.state, CacheState::Reused);
}

#[test]
fn thread_count_does_not_change_a_byte() {
    let bench = Bench::new();
    corpus(&bench);
    let of_threads = |threads: usize| {
        let cache = bench.path(&format!("cache-{threads}"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let cfg = bench.config(Kind::Text, "text");
        let open =
            || data::open(&cfg, Some(&bench.bytes), 257, crate::bench::SEED, crate::bench::STEP, &cache).unwrap();
        contents(&pool.install(open).caches[0].path)
    };
    let one = of_threads(1);
    assert!(of_threads(2) == one && of_threads(5) == one);
}

#[test]
fn processes_that_race_agree() {
    let bench = Bench::new();
    corpus(&bench);
    let opened = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| open(&bench).1)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(opened.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(folders(&bench).len(), 1, "nothing temporary is left");
}
