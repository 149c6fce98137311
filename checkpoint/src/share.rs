//! A rank's hand in a checkpoint: a thread, or a process that sees the same files. It writes elements that are its own into
//! files that rank 0 has made, and says in the end which they were.
use crate::error::Result;
use crate::layout::Layout;
use crate::save::SHARD_BYTES;
use crate::training::Part;
use crate::writer::Writer;
use crate::written::Written;
use model::{Decoder, Family};
use std::path::Path;

pub struct Share {
    layout: Layout,
    files: Writer,
    written: Written,
}

impl Share {
    /// In the draft at [`crate::Save::path`], with the arguments that [`crate::Save::create`] was called with.
    pub fn of(draft: &Path, decoder: &Decoder, family: Family, with_optimizer: bool) -> Share {
        let layout = Layout::new(decoder, family, with_optimizer, SHARD_BYTES);
        let files = Writer::of(draft, &layout.contents);
        Share { layout, files, written: Written::default() }
    }

    /// Elements `start ..` of a parameter of the decoder's table.
    pub fn write(&mut self, part: Part, name: &str, start: usize, data: &[f32]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.written.add(part, name, start, data.len());
        self.layout.write((&self.files, &mut self.written.sums), part, name, start, data)
    }

    /// What was written is on the disk; [`crate::Save::add`] wants to hear of it, and of its checksums.
    pub fn finish(self) -> Result<String> {
        self.files.sync()?;
        Ok(self.written.encode())
    }
}
