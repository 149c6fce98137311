//! Edited programs, and questions to a model.
use super::*;
use common::golden;

#[test]
fn programs() {
    let desk = desk();
    let run = "run.toml --ranks 2 --set train.micro_batches=2";
    let printed = desk.ok(&format!("schedule {run}"));
    let lines: Vec<&str> = printed.lines().collect();
    let at = |line: &str| lines.iter().position(|l| *l == line).unwrap_or_else(|| panic!("{line} in\n{printed}"));
    let remove = |lines: &mut Vec<&str>, i: usize| lines.splice(i..=i, []).for_each(drop);
    let edited = |edit: &dyn Fn(&mut Vec<&str>), needles: &[&str]| {
        let mut lines = lines.clone();
        edit(&mut lines);
        desk.write("edited", lines.join("\n"));
        refused(&desk, &[(&format!("train {run} --program edited"), needles)]);
    };
    edited(
        &|l| remove(l, at("forward mlp.1 0")),
        &["edited: rank 0, action", "(`forward attn.2 0`): `forward mlp.1 0` is missing before it"],
    );
    edited(&|l| remove(l, at("gather attn.0")), &["edited: rank 0", "`gather attn.0` is missing"]);
    edited(
        &|l| l.insert(at("step head"), "step head"),
        &["edited: rank 0, action", "(`step head`): a second time in one step"],
    );
    edited(
        &|l| l.swap(at("grad_norm"), at("grad_norm") - 1),
        &["edited: rank 0, action", "(`grad_norm`)", "is missing before it"],
    );
    let later = |l: &mut Vec<&str>| {
        remove(l, at("reduce mlp.0"));
        l.insert(at("reduce attn.0"), "reduce mlp.0"); // by now the line after it
    };
    edited(&later, &["edited: order", "`reduce attn.0`", "`reduce mlp.0`"]);
    edited(&|l| l[at("begin")] = "beginn", &[&format!("edited: line {}: `beginn` is not an action", at("begin") + 1)]);
    edited(&|l| l[at("load 1")] = "load 7", &["edited: rank 0", "(`load 7`): there is no micro-batch 7"]);
    edited(
        &|l| l[at("step mlp.3")] = "step mlp.9",
        &["`mlp.9` is not a unit of this model; units: embed, attn.N, mlp.N (N below 4), head"],
    );
    let stage = [&format!("edited: line {}: there is no stage 18446744073709551615 among 1", at("begin") + 1)[..]];
    edited(&|l| l[at("begin")] = "recv x mlp.1 0 from 18446744073709551615", &stage);
    edited(&|l| l[at("begin")] = "send x mlp.1 0 to 0", &["edited: rank 0"]);
    edited(&|l| l[at("begin")] = "send dx 0 to 0", &["edited: rank 0"]);
    edited(&|l| l[at("begin")] = "recv dx 0 from 0", &["edited: rank 0"]);
    edited(&|l| l.truncate(at("rank 1")), &["edited: the file has programs for 1 ranks, the run has 2"]);
    edited(&|l| l.clear(), &["edited: the file has programs for 0 ranks, the run has 2"]);
    refused(&desk, &[(&format!("train {run} --program nowhere"), &["cannot read nowhere"])]);
}

// ---- generate and eval ---------------------------------------------------------------------------------------------

#[test]
fn questions_to_a_model() {
    let desk = desk();
    let model = golden("llama_mha").display().to_string();
    desk.model("llama_mha", "model");
    desk.write("one.bin", [5, 0]);
    desk.write("outside.bin", [5, 0, 200, 0]);
    desk.write("a.txt", "hello");
    let long = vec!["5"; 129].join(",");
    for (command, needles) in [
        ("generate MODEL", &["--prompt"][..]),
        (
            "generate MODEL --prompt hello",
            &["a prompt of text needs a tokenizer; or give --prompt-tokens", "tokenizer.json"],
        ),
        ("generate MODEL --prompt-tokens=", &["--prompt-tokens"]),
        ("generate MODEL --prompt-tokens 1,x", &["--prompt-tokens", "x"]),
        ("generate MODEL --prompt-tokens 5,97", &["token 97 of the prompt is outside the vocabulary of 97"]),
        (&format!("generate MODEL --prompt-tokens {long}"), &["129 tokens do not fit the context of 128"]),
        (
            "generate MODEL --prompt-tokens 1 --temperature -1",
            &["--temperature -1: must not be negative; 0 takes the most likely token"],
        ),
        ("generate MODEL --prompt-tokens 1 --top-p 0", &["--top-p 0: must be above 0 and at most 1"]),
        ("generate MODEL --prompt-tokens 1 --threads 0", &["--threads"]),
        ("generate nowhere --prompt-tokens 1", &["cannot open nowhere", "No such file"]),
        ("eval nowhere --tokens one.bin", &["cannot open nowhere", "No such file"]),
        ("eval MODEL", &["--text"]),
        ("eval MODEL --tokens one.bin", &["1 tokens: at least 2 are needed to predict one"]),
        ("eval MODEL --tokens outside.bin", &["outside.bin: ids[1] = 200 is outside the vocabulary of 97"]),
        ("eval MODEL --tokens nowhere.bin", &["cannot open nowhere.bin"]),
        ("eval MODEL --text nowhere.txt", &["cannot read nowhere.txt"]),
        ("eval MODEL --text a.txt", &["tokenizer.json"]),
        ("eval MODEL --tokens ids.bin --seq-len 0", &["--seq-len"]),
        ("eval MODEL --tokens ids.bin --threads 0", &["--threads"]),
    ] {
        refused(&desk, &[(&command.replace("MODEL", &model), needles)]);
    }

    desk.write("stories/a.txt", "a little text, a little more text, and a little more of the same.");
    let text = RUN.replace("\"tokens\"", "\"text\"").replace("vocab_size = 32\n", "").replace("ids.bin", "stories");
    desk.write("run.toml", text + "[tokenizer]\nvocab_size = 270\n");
    desk.ok("train run.toml");
    let model = "runs/run/checkpoints/step_4";
    desk.write("one.txt", "a");
    desk.write("empty.txt", "");
    desk.write("latin1.txt", b"caf\xe9");
    for (command, needles) in [
        ("generate MODEL --prompt=", &["the prompt is empty; give at least one token"]),
        ("eval MODEL --text one.txt", &["1 tokens: at least 2 are needed to predict one"]),
        ("eval MODEL --text empty.txt", &["0 tokens: at least 2 are needed to predict one"]),
        ("eval MODEL --text latin1.txt", &["latin1.txt is not UTF-8 at byte 3"]),
    ] {
        refused(&desk, &[(&command.replace("MODEL", model), needles)]);
    }
}
