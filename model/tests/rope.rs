//! Tables of angles against transformers' own functions in f64 (`xtask/py/goldens.py` made the file).
use backend::Pairs;
use model::{Rope, Scaling};
use serde_json::Value;

#[test]
fn frequencies_are_those_of_transformers() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("goldens/rope.json")).unwrap();
    let mut kinds = vec![];
    for case in &cases {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let mut fields = case["rope"].as_object().unwrap().clone();
        let theta = fields.remove("rope_theta").unwrap().as_f64().unwrap();
        let kind = fields["rope_type"].as_str().unwrap().to_string();
        let scaling: Option<Scaling> =
            (kind != "default").then(|| serde_json::from_value(Value::Object(fields)).unwrap());
        let (length, dim) = (size("length"), size("head_dim"));
        for pairs in [Pairs::Half, Pairs::Interleaved] {
            let table = Rope { theta, scaling, pairs }.table(length, dim, size("max_positions"));
            assert_eq!(table.len(), length * dim);
            let stretch = case["attention_factor"].as_f64().unwrap();
            for (i, frequency) in case["frequencies"].as_array().unwrap().iter().enumerate() {
                for p in [0, 1, length / 2, length - 1] {
                    let angle = p as f64 * frequency.as_f64().unwrap();
                    let got = [table[p * dim + i], table[p * dim + dim / 2 + i]];
                    let want = [stretch * angle.cos(), stretch * angle.sin()];
                    let error = (got[0] - want[0]).abs().max((got[1] - want[1]).abs());
                    assert!(error < 1e-13, "{} pair {i} of position {p}: {got:?} against {want:?}", case["rope"]);
                }
            }
        }
        kinds.push(kind);
    }
    kinds.dedup();
    assert_eq!(kinds, ["default", "linear", "dynamic", "llama3", "yarn"]);
}

#[test]
fn dynamic_ntk_stretches_with_the_context_of_the_run_alone() {
    let rope = Rope { scaling: Some(Scaling::Dynamic { factor: 2.0 }), ..Rope::plain(1e4) };
    let (short, trained, long) = (rope.table(8, 6, 16), rope.table(16, 6, 16), rope.table(32, 6, 16));
    assert_eq!(short, trained[..8 * 6], "within the trained context nothing is stretched");
    assert_eq!(trained, Rope::plain(1e4).table(16, 6, 16));
    assert_ne!(long[..16 * 6], trained[..]);
}
