//! Event files, read back by the format's own words and compared with `metrics.jsonl`.
mod common;
use common::{Desk, golden};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const CURVES: [&str; 14] = [
    "loss",
    "accuracy",
    "grad_norm",
    "lr",
    "beta2",
    "loss_scale",
    "micro_batches",
    "tgs",
    "tflops",
    "step_ms",
    "tokens",
    "val_loss",
    "val_perplexity",
    "val_accuracy",
];

/// TensorBoard shows what `metrics.jsonl` says: after an end, a kill and a start from the beginning.
#[test]
fn curves_are_those_of_metrics_jsonl() {
    let desk = Desk::golden("llama_mha");
    let tokens = fs::read(golden("llama_mha").join("tokens.bin")).unwrap();
    desk.write("held_out.bin", &tokens[..tokens.len() / 4 * 2]);
    let train = |steps: u64, more: &str| {
        format!(
            "train run.toml --set data.valid.path=held_out.bin --set train.validate_every=3 --set train.steps={steps} \
             --set lr_schedule.kind=constant {more}"
        )
    };
    desk.ok(&train(4, ""));
    assert_eq!(shown(&desk), told(&desk));
    assert_eq!(starts(&desk), [1]);

    let mut running = desk.start(&train(1_000_000, "--resume"));
    running.until_rows(&desk, "golden", 20);
    running.signal("KILL");
    running.end();
    assert_eq!(starts(&desk), [1, 5]);
    // The event of the last row may be missing.
    let seen = last_step(&shown(&desk));
    let last_told = last_step(&told(&desk));
    assert!(seen > 8 && (seen == last_told || seen + 1 == last_told), "{seen} of {last_told}");

    desk.ok(&train(8, "--resume"));
    assert_eq!(shown(&desk), told(&desk));
    assert_eq!(last_step(&shown(&desk)), 8);
    assert_eq!(starts(&desk), [1, 5, 5]);
    for file in files(&desk) {
        assert_eq!(file[0].version.as_deref(), Some("brain.Event:2"), "the first event of a file");
    }
    let texts: Vec<String> = files(&desk).into_iter().flatten().filter_map(|e| e.text).collect();
    assert_eq!(texts.len(), 3, "one of each process");
    assert_eq!(texts[2], format!("```\n{}```\n", desk.text("runs/golden/config.toml")));

    desk.ok(&train(2, "--fresh"));
    assert_eq!(shown(&desk), told(&desk));
    assert_eq!(starts(&desk), [1], "the old files are gone");
}

#[test]
fn they_can_be_switched_off() {
    let desk = Desk::golden("llama_mha");
    desk.ok("train run.toml --set metrics.tensorboard=false");
    assert!(!desk.path("runs/golden/tensorboard").exists());
    desk.run("train run.toml --fresh --set metrics.tensorbord=false").refused(&["did you mean metrics.tensorboard?"]);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let desk = Desk::golden("llama_mha");
    desk.ok("train run.toml --set train.steps=4");
    fs::remove_dir_all(desk.path("runs/golden/tensorboard")).unwrap();
    desk.write("runs/golden/tensorboard", "in the way");
    desk.run("train run.toml --resume").refused(&["cannot create runs/golden/tensorboard"]);
}

// ---- what is compared ----------------------------------------------------------------------------------------------

/// Values by tag and step.
type Curves = BTreeMap<(String, u64), f32>;

fn last_step(curves: &Curves) -> u64 {
    curves.keys().map(|(_, step)| *step).max().unwrap()
}

/// By `metrics.jsonl`.
fn told(desk: &Desk) -> Curves {
    let mut curves = Curves::new();
    for row in desk.metrics("golden") {
        let step = row["step"].as_u64().unwrap();
        let values = CURVES.iter().filter_map(|tag| Some(((tag.to_string(), step), row[tag].as_f64()? as f32)));
        curves.extend(values);
    }
    assert!(CURVES.iter().all(|tag| curves.keys().any(|(t, _)| t == tag)), "every curve is told");
    curves
}

/// By the event files: a start drops what was said about its step and later ones.
fn shown(desk: &Desk) -> Curves {
    let mut curves = Curves::new();
    for event in files(desk).into_iter().flatten() {
        if event.is_start {
            curves.retain(|(_, step), _| *step < event.step);
        }
        for (tag, value) in event.scalars {
            let before = curves.insert((tag.clone(), event.step), value);
            assert!(before.is_none(), "{tag} of step {} is shown twice", event.step);
        }
    }
    curves
}

fn starts(desk: &Desk) -> Vec<u64> {
    files(desk).into_iter().flatten().filter(|e| e.is_start).map(|e| e.step).collect()
}

/// The events of each file, in the order that TensorBoard reads them.
fn files(desk: &Desk) -> Vec<Vec<Event>> {
    let dir = fs::read_dir(desk.path("runs/golden/tensorboard")).unwrap();
    let mut files: Vec<PathBuf> = dir.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| events(&fs::read(file).unwrap())).collect()
}

// ---- the format ----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Event {
    step: u64,
    version: Option<String>,
    is_start: bool,
    scalars: Vec<(String, f32)>,
    text: Option<String>,
}

fn events(mut rest: &[u8]) -> Vec<Event> {
    let mut events = vec![];
    // A kill may leave half a record.
    while let Some(data) = record(&mut rest) {
        events.push(event(data));
    }
    events
}

fn record<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (head, after) = rest.split_at_checked(12)?;
    let len = u64::from_le_bytes(head[..8].try_into().unwrap());
    assert_eq!(masked_crc(&head[..8]), word(&head[8..]), "checksum of a length");
    let (data, after) = after.split_at_checked(len as usize)?;
    let (crc, after) = after.split_at_checked(4)?;
    assert_eq!(masked_crc(data), word(crc), "checksum of a record");
    *rest = after;
    Some(data)
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().unwrap())
}

fn masked_crc(data: &[u8]) -> u32 {
    let crc = crc32c(data);
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// By long division, the highest bit first, as RFC 3720 writes the polynomial.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in data {
        crc ^= u32::from(byte.reverse_bits()) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 { (crc << 1) ^ 0x1edc_6f41 } else { crc << 1 };
        }
    }
    !crc.reverse_bits()
}

#[test]
fn the_reader_has_the_check_value() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

enum Field<'a> {
    Int(u64),
    Double(f64),
    Bytes(&'a [u8]),
    Float(f32),
}
use Field::{Bytes, Double, Float, Int};

fn event(data: &[u8]) -> Event {
    let mut event = Event::default();
    let mut wall_time = 0.0;
    for field in fields(data) {
        match field {
            (1, Double(value)) => wall_time = value,
            (2, Int(step)) => event.step = step,
            (3, Bytes(version)) => event.version = Some(string(version)),
            (5, Bytes(summary)) => fields(summary).into_iter().for_each(|field| value(field, &mut event)),
            (7, Bytes(log)) => event.is_start = matches!(fields(log)[..], [(1, Int(1))]),
            (number, _) => panic!("field {number} of an event"),
        }
    }
    assert!(wall_time > 1.7e9, "seconds since 1970: {wall_time}");
    event
}

/// A scalar, or a text as the plugin of that name has it.
fn value(field: (u64, Field), event: &mut Event) {
    let (1, Bytes(value)) = field else { panic!("field {} of a summary", field.0) };
    match fields(value)[..] {
        [(1, Bytes(tag)), (2, Float(value))] => event.scalars.push((string(tag), value)),
        [(1, Bytes(b"config")), (8, Bytes(tensor)), (9, Bytes(metadata))] => {
            let [(1, Int(7)), (2, Bytes(b"")), (8, Bytes(text))] = fields(tensor)[..] else { panic!("not a string") };
            let [(1, Bytes(plugin))] = fields(metadata)[..] else { panic!("not metadata") };
            assert!(matches!(fields(plugin)[..], [(1, Bytes(b"text"))]));
            event.text = Some(string(text));
        }
        _ => panic!("neither a scalar nor the config"),
    }
}

fn fields(mut message: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = vec![];
    while !message.is_empty() {
        let tag = varint(&mut message);
        let field = match tag & 7 {
            0 => Int(varint(&mut message)),
            1 => Double(f64::from_le_bytes(take(&mut message, 8).try_into().unwrap())),
            2 => {
                let len = varint(&mut message) as usize;
                Bytes(take(&mut message, len))
            }
            5 => Float(f32::from_le_bytes(take(&mut message, 4).try_into().unwrap())),
            other => panic!("wire type {other}"),
        };
        fields.push((tag >> 3, field));
    }
    fields
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    rest.split_off(..len).unwrap()
}

fn varint(rest: &mut &[u8]) -> u64 {
    let bytes = rest.iter().take_while(|byte| **byte >= 0x80).count() + 1;
    take(rest, bytes).iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
}

fn string(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
