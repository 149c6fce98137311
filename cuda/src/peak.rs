//! What the makers of cards promise, for the P of MFU, and what cards of a name were measured to do.
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

/// What a card reaches when nothing is wrong with it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Usual {
    /// Bytes a second of a copy on the card, read and written.
    pub copy: f64,
    /// Operations a second of a large product in bf16, on random numbers: with these a card is slower than with zeros,
    /// because it may draw only so much power.
    pub product: f64,
}

/// Measured on one card of each kind; the first whose name fits counts. None: not measured, or another memory and another limit of power.
const MEASURED: &[(&str, Option<Usual>)] = &[
    ("H100 PCIe", None),
    ("H100 NVL", None),
    ("GH200", None),
    ("H100", Some(Usual { copy: 3.0e12, product: 798e12 })),
    ("H200", Some(Usual { copy: 4.3e12, product: 770e12 })),
];

/// Of a card by its name. A part of a card has another speed.
pub fn usual(card: &str) -> Option<Usual> {
    if card.contains("MIG") {
        return None;
    }
    MEASURED.iter().find(|(name, _)| card.contains(name))?.1
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
        assert_eq!(usual("NVIDIA H200").unwrap().copy, 4.3e12);
        assert_eq!(usual("NVIDIA H100 80GB HBM3").unwrap().copy, 3.0e12);
        for other in ["NVIDIA H100 PCIe", "NVIDIA GH200 480GB", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "Emulated card"] {
            assert_eq!(usual(other), None, "{other}");
        }
    }
}
