//! Where the elements of a decoder's parameters lie in the files of a checkpoint.
use crate::contents::{self, Contents};
use crate::error::Result;
use crate::spelling::Spelling;
use crate::sums::Sums;
use crate::training::{HEAD, MOMENTS, Part, RAW_HEAD};
use crate::writer::Writer;
use model::{Decoder, Family, models};

/// The same for whoever asks with the same arguments: ranks need not tell it to each other.
pub(crate) struct Layout {
    pub contents: Vec<Contents>,
    /// All that is to be written: parts of parameters, with their elements.
    pub tensors: Vec<(Part, String, usize)>,
    spelling: Spelling,
    /// Of the optimizer's tensors, without their prefix.
    own: Spelling,
    head: Option<UnitHead>,
}

/// The head's matrix, whose rows the directory has normalised.
struct UnitHead {
    /// Its tensor in the directory.
    tensor: String,
    shape: [usize; 2],
    /// The matrix itself lies with the optimizer's state.
    raw: bool,
}

impl Layout {
    /// Weights in files of at most `limit` bytes of data.
    pub fn new(decoder: &Decoder, family: Family, with_optimizer: bool, limit: u64) -> Layout {
        let (spelling, table) = (Spelling::new(decoder, family), decoder.table());
        let head = models::stores_unit_rows(family, decoder).then(|| {
            let tensor = spelling.tensor_of(HEAD).expect("a head that is not tied").name.clone();
            UnitHead { tensor, shape: [decoder.vocab, decoder.hidden], raw: with_optimizer }
        });
        let mut contents = contents::weights(&spelling, limit);
        let mut parts = vec![Part::Param];
        if with_optimizer {
            let raw = table.iter().find(|spec| head.is_some() && spec.name == HEAD);
            contents.push(contents::optimizer(&table, raw));
            parts.extend(MOMENTS);
        }
        let of = |part: Part| table.iter().map(move |spec| (part, spec.name.clone(), spec.len()));
        let tensors = parts.into_iter().flat_map(of).collect();
        Layout { contents, tensors, spelling, own: Spelling::own(decoder), head }
    }

    /// Elements `start ..` of a part of a parameter, into the files and into the sums of what lies in them.
    pub fn write(
        &self,
        (files, sums): (&Writer, &mut Sums),
        part: Part,
        name: &str,
        start: usize,
        data: &[f32],
    ) -> Result<()> {
        let mut put = |tensor: &str, at: usize, data: &[f32]| {
            sums.add(tensor, at, data);
            files.write(tensor, at, data)
        };
        if part == Part::Param && name == HEAD && self.head.as_ref().is_some_and(|head| head.raw) {
            put(RAW_HEAD, start, data)?;
        }
        match part {
            Part::Param => {
                self.spelling.stretches(name, start, data.len()).try_for_each(|s| put(s.tensor, s.at, &data[s.range]))
            }
            Part::ExpAvg | Part::ExpAvgSq => self
                .own
                .stretches(name, start, data.len())
                .try_for_each(|s| put(&part.tensor(s.tensor), s.at, &data[s.range])),
        }
    }

    /// A rank may have written parts of rows, so rows are normalised when all are there.
    pub fn normalise_head(&self, files: &Writer, sums: &mut Sums) -> Result<()> {
        let Some(UnitHead { tensor, shape: [rows, width], .. }) = &self.head else { return Ok(()) };
        sums.0.remove(tensor);
        let mut row = vec![0.0; *width];
        for start in (0..*rows).map(|i| i * width) {
            files.read(tensor, start, &mut row)?;
            // As `Op::UnitRows`.
            let norm = row.iter().map(|x| (*x as f64).powi(2)).sum::<f64>().sqrt().max(1e-12);
            row.iter_mut().for_each(|x| *x = (*x as f64 / norm) as f32);
            sums.add(tensor, start, &row);
            files.write(tensor, start, &row)?;
        }
        Ok(())
    }
}
