//! Sums over ranks that are threads on one card: no operation, a launch on raw addresses.
use super::COLLECTIVES;
use crate::work::{Arg, Launch, Module, c_name};
use backend::DType;

/// The most members of a group.
pub const MEMBERS: usize = 64;

/// The terms' sum of `len` elements, in the order of `comm`'s tree and rounded once, to every result. Terms and results are
/// addresses on the card; a result may be where a term is, and else overlaps none.
pub fn tree_sum(dtype: DType, terms: &[u64], results: &[u64], len: usize) -> Launch {
    assert!((1..=MEMBERS).contains(&terms.len()) && (1..=MEMBERS).contains(&results.len()));
    let element = dtype.bytes();
    let fits = |n: &usize| {
        let aligned = |at: &u64| at.is_multiple_of((n * element) as u64);
        n * element <= 16 && len.is_multiple_of(*n) && terms.iter().chain(results).all(aligned)
    };
    let vec = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
    let real = if dtype == DType::F64 { "double" } else { "float" };
    let defines = vec![
        ("REAL", real.to_string()),
        ("X_T", c_name(dtype).to_string()),
        ("VEC", vec.to_string()),
        ("TERMS", terms.len().to_string()),
        ("RESULTS", results.len().to_string()),
    ];
    let (block, packs) = (256, len / vec);
    let addresses = terms.iter().chain(results).map(|&at| Arg::Address(at));
    let blocks = u32::try_from(packs.div_ceil(block)).expect("a grid has less than 2^32 blocks");
    Launch {
        module: Module { source: &COLLECTIVES, defines },
        entry: "tree_sum",
        grid: [blocks, 1, 1],
        block: block as u32,
        shared: 0,
        args: addresses.chain([packs.into()]).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_are_as_wide_as_all_addresses_allow() {
        let vec = |dtype, terms: &[u64], results: &[u64], len| {
            let launch = tree_sum(dtype, terms, results, len);
            assert_eq!(launch.args.len(), terms.len() + results.len() + 1);
            let vec: usize = launch.module.defines[2].1.parse().unwrap();
            assert_eq!(launch.grid[0] as usize, (len / vec).div_ceil(256));
            vec
        };
        assert_eq!(vec(DType::BF16, &[256, 512, 1024], &[256], 4096), 8);
        assert_eq!(vec(DType::F32, &[256, 512, 1024], &[256, 512, 1024], 4096), 4);
        assert_eq!(vec(DType::BF16, &[256, 512], &[264], 4096), 4);
        assert_eq!(vec(DType::F64, &[256, 512], &[256], 4095), 1);
    }
}
