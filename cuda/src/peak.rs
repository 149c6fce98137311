//! What the makers of cards promise, for the P of MFU.
use backend::DType;

/// Floating-point operations a second of dense products, a multiply-add counted as two, without sparsity, as NVIDIA's data
/// sheets of the SXM or PCIe cards give them: 16 bits, tf32, f32, f64.
const CARDS: &[(&str, [f64; 4])] = &[
    ("H100 PCIe", [756e12, 378e12, 51e12, 51e12]),
    ("H100", [989.4e12, 494.7e12, 66.9e12, 66.9e12]),
    ("H200", [989.4e12, 494.7e12, 66.9e12, 66.9e12]),
    ("GH200", [989.4e12, 494.7e12, 66.9e12, 66.9e12]),
    ("A100", [312e12, 156e12, 19.5e12, 19.5e12]),
    ("B200", [2250e12, 1120e12, 75e12, 37e12]),
];

/// Of a card by its name, in products of this type; None of one that is not known.
pub fn nominal(card: &str, dtype: DType, tf32: bool) -> Option<f64> {
    let (_, [half, of_tf32, single, double]) = CARDS.iter().find(|(name, _)| card.contains(name))?;
    match (dtype, tf32) {
        (DType::BF16 | DType::F16, _) => Some(*half),
        (DType::F32, true) => Some(*of_tf32),
        (DType::F32, false) => Some(*single),
        (DType::F64, _) => Some(*double),
        (DType::U32, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_known_by_their_names() {
        assert_eq!(nominal("NVIDIA H200", DType::BF16, false), Some(989.4e12));
        assert_eq!(nominal("NVIDIA H100 80GB HBM3", DType::F32, true), Some(494.7e12));
        assert_eq!(nominal("NVIDIA H100 PCIe", DType::F16, false), Some(756e12));
        assert_eq!(nominal("Emulated card", DType::BF16, false), None);
    }
}
