//! Curves for TensorBoard: an event file (`tsl/lib/io/record_writer.h`, `tensorflow/core/util/event.proto`) that is a
//! run of records, each a protobuf message. Only what training writes of both; TensorBoard reads the rest.
use anyhow::{Context, Result};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The curves, by their keys in metrics.jsonl.
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

pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// A file of the folder `dir` for the steps after `done`; TensorBoard drops what older files say about them.
    pub fn create(dir: &Path, done: u64, config: &str) -> Result<EventFile> {
        let since = since_1970();
        // TensorBoard reads the files of a folder in the order of their names.
        let path = dir.join(format!("events.out.tfevents.{}.{:06}", since.as_secs(), since.subsec_micros()));
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let file = File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut events = EventFile { file, path };
        events.event(done, &bytes(3, b"brain.Event:2"))?;
        events.event(done + 1, &bytes(7, &int(1, SESSION_START)))?;
        events.event(done + 1, &bytes(5, &text("config", config)))?;
        Ok(events)
    }

    /// A row of metrics.jsonl. A number that is not finite is null there, and a gap here.
    pub fn row(&mut self, row: &Value) -> Result<()> {
        let step = row["step"].as_u64().expect("a row has its step");
        let set = row["set"].as_str().map_or(String::new(), |set| format!("/{set}"));
        let mut values = vec![];
        for tag in CURVES {
            values.extend(row[tag].as_f64().map(|value| scalar(&format!("{tag}{set}"), value as f32)));
        }
        for (name, curves) in row["types"].as_object().into_iter().flatten() {
            for tag in ["loss", "accuracy", "perplexity"] {
                values.extend(curves[tag].as_f64().map(|value| scalar(&format!("{tag}/{name}"), value as f32)));
            }
        }
        self.event(step, &bytes(5, &values.concat()))
    }

    /// Written at once, so that a run can be watched.
    fn event(&mut self, step: u64, what: &[u8]) -> Result<()> {
        let event = [&double(1, since_1970().as_secs_f64()), &int(2, step), what].concat();
        self.file
            .write_all(&record(&event))
            .with_context(|| format!("cannot write {}; check the space on its disk", self.path.display()))
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970")
}

// ---- messages: what is field 5 of an Event, a Summary --------------------------------------------------------------

/// `SessionLog.status`.
const SESSION_START: u64 = 1;
/// `TensorProto.dtype`.
const DT_STRING: u64 = 7;

fn scalar(tag: &str, value: f32) -> Vec<u8> {
    bytes(1, &[bytes(1, tag.as_bytes()), float(2, value)].concat())
}

/// Preformatted: the plugin shows Markdown.
fn text(tag: &str, value: &str) -> Vec<u8> {
    let shown = format!("```\n{value}```\n");
    let tensor = [int(1, DT_STRING), bytes(2, b""), bytes(8, shown.as_bytes())].concat();
    let plugin = bytes(1, &bytes(1, b"text"));
    bytes(1, &[bytes(1, tag.as_bytes()), bytes(8, &tensor), bytes(9, &plugin)].concat())
}

// ---- fields of a message (protobuf.dev/programming-guides/encoding): number and wire type, then the value ----------

fn int(number: u8, value: u64) -> Vec<u8> {
    [vec![number << 3], varint(value)].concat()
}

fn double(number: u8, value: f64) -> Vec<u8> {
    [&[number << 3 | 1][..], &value.to_le_bytes()].concat()
}

fn bytes(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(value.len() as u64), value].concat()
}

fn float(number: u8, value: f32) -> Vec<u8> {
    [&[number << 3 | 5][..], &value.to_le_bytes()].concat()
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = vec![];
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

// ---- records -------------------------------------------------------------------------------------------------------

fn record(data: &[u8]) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    [&len, &masked_crc(&len)[..], data, &masked_crc(data)].concat()
}

/// Masked, since a checksum over data that hold checksums is weak.
fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Castagnoli's polynomial, the lowest bit first (RFC 3720, B.4).
fn crc32c(data: &[u8]) -> u32 {
    let bit = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1));
    !data.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), bit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_its_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
