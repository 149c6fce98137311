//! Operators on numbers, strings and lists, as Python has them; whatever Python would raise, and whatever grows without
//! bound, is an error.
use crate::value::{Node, Value};
use ruff_python_ast::{CmpOp, Operator, UnaryOp};
use std::cmp::Ordering;

/// Bytes of a string, items of a list.
pub const MOST_LENGTH: usize = 64 << 10;

pub fn unary(op: UnaryOp, x: &Value) -> Result<Value, String> {
    match (op, x) {
        (UnaryOp::Not, x) => Ok(Value::Bool(!x.is_true())),
        (UnaryOp::UAdd, Value::Int(n)) => Ok(Value::Int(*n)),
        (UnaryOp::UAdd, Value::Float(x)) => Ok(Value::Float(*x)),
        (UnaryOp::USub, Value::Int(n)) => n.checked_neg().map(Value::Int).ok_or_else(too_large),
        (UnaryOp::USub, Value::Float(x)) => Ok(Value::Float(-x)),
        (UnaryOp::Invert, Value::Int(n)) => Ok(Value::Int(!n)),
        (op, x) => Err(format!("{} cannot be applied to {}", op.as_str(), x.kind())),
    }
}

pub fn binary(op: Operator, a: &Value, b: &Value) -> Result<Value, String> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => ints(op, *a, *b),
        (Value::Int(a), Value::Float(b)) => floats(op, *a as f64, *b),
        (Value::Float(a), Value::Int(b)) => floats(op, *a, *b as f64),
        (Value::Float(a), Value::Float(b)) => floats(op, *a, *b),
        (Value::Str(a), Value::Str(b)) if op == Operator::Add => {
            fits(a.len() + b.len())?;
            Ok(Value::Str(format!("{a}{b}")))
        }
        (Value::Str(s), Value::Int(n)) | (Value::Int(n), Value::Str(s)) if op == Operator::Mult => {
            let n = (*n).max(0) as usize;
            fits(s.len().saturating_mul(n))?;
            Ok(Value::Str(s.repeat(n)))
        }
        (Value::List(a), Value::List(b)) if op == Operator::Add => Ok(Value::List(joined(a, b)?)),
        (Value::Tuple(a), Value::Tuple(b)) if op == Operator::Add => Ok(Value::Tuple(joined(a, b)?)),
        (Value::List(a), Value::Int(n)) if op == Operator::Mult => {
            let n = (*n).max(0) as usize;
            // What its items hold is copied with them.
            let values: usize = a.iter().map(|node| node.value.extent().0).sum();
            fits(values.saturating_mul(n))?;
            Ok(Value::List(std::iter::repeat_n(a, n).flatten().cloned().collect()))
        }
        (Value::Str(_), _) if op == Operator::Mod => Err("% formatting is not read; write an f-string".into()),
        (a, b) => Err(format!("{} cannot be applied to {} and {}", op.as_str(), a.kind(), b.kind())),
    }
}

fn joined(a: &[Node], b: &[Node]) -> Result<Vec<Node>, String> {
    fits(a.len() + b.len())?;
    Ok([a, b].concat())
}

fn fits(length: usize) -> Result<(), String> {
    if length > MOST_LENGTH { Err(format!("comes to a length of more than {MOST_LENGTH}")) } else { Ok(()) }
}

fn too_large() -> String {
    "comes to a number beyond 64 bits; nothing in a config is that large".into()
}

fn ints(op: Operator, a: i64, b: i64) -> Result<Value, String> {
    let shift = |b: i64| u32::try_from(b).ok().filter(|b| *b < 63).ok_or_else(too_large);
    let out = match op {
        Operator::Add => a.checked_add(b),
        Operator::Sub => a.checked_sub(b),
        Operator::Mult => a.checked_mul(b),
        Operator::Div => return floats(op, a as f64, b as f64),
        Operator::FloorDiv | Operator::Mod if b == 0 => return Err(by_zero(op)),
        // Python rounds down, Rust towards zero.
        Operator::FloorDiv => a.checked_div(b).map(|q| q - i64::from(a % b != 0 && (a < 0) != (b < 0))),
        Operator::Mod => a.checked_rem(b).map(|r| if r != 0 && (r < 0) != (b < 0) { r + b } else { r }),
        Operator::Pow if b < 0 => return floats(op, a as f64, b as f64),
        Operator::Pow => match (a, u32::try_from(b)) {
            (_, Ok(b)) => a.checked_pow(b),
            (0 | 1, Err(_)) => Some(a),
            (_, Err(_)) => None,
        },
        Operator::LShift => a.checked_mul(1 << shift(b)?),
        Operator::RShift => Some(a >> shift(b)?),
        Operator::BitOr => Some(a | b),
        Operator::BitXor => Some(a ^ b),
        Operator::BitAnd => Some(a & b),
        Operator::MatMult => return Err("@ is for matrices; there are none in a config".into()),
    };
    out.map(Value::Int).ok_or_else(too_large)
}

fn floats(op: Operator, a: f64, b: f64) -> Result<Value, String> {
    let out = match op {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mult => a * b,
        Operator::Div | Operator::FloorDiv | Operator::Mod if b == 0.0 => return Err(by_zero(op)),
        Operator::Pow if a == 0.0 && b < 0.0 => return Err(by_zero(op)),
        Operator::Div => a / b,
        Operator::FloorDiv => ((a - modulo(a, b)) / b).round(),
        Operator::Mod => modulo(a, b),
        Operator::Pow => a.powf(b),
        Operator::LShift
        | Operator::RShift
        | Operator::BitOr
        | Operator::BitXor
        | Operator::BitAnd
        | Operator::MatMult => return Err(format!("{} is for whole numbers", op.as_str())),
    };
    if a.is_finite() && b.is_finite() && !out.is_finite() {
        return Err("comes to no finite real number".into());
    }
    Ok(Value::Float(out))
}

/// With the sign of the divisor.
fn modulo(a: f64, b: f64) -> f64 {
    let r = a % b;
    if r != 0.0 && (r < 0.0) != (b < 0.0) { r + b } else { r }
}

fn by_zero(op: Operator) -> String {
    format!("{} by zero", if op == Operator::Pow { "division" } else { op.as_str() })
}

pub fn compare(op: CmpOp, a: &Value, b: &Value) -> Result<bool, String> {
    let order =
        || order(a, b).ok_or_else(|| format!("{} and {} cannot be compared with {}", a.kind(), b.kind(), op.as_str()));
    Ok(match op {
        CmpOp::Eq => equal(a, b),
        CmpOp::NotEq => !equal(a, b),
        CmpOp::Lt => order()?.is_lt(),
        CmpOp::LtE => order()?.is_le(),
        CmpOp::Gt => order()?.is_gt(),
        CmpOp::GtE => order()?.is_ge(),
        CmpOp::Is => same(a, b)?,
        CmpOp::IsNot => !same(a, b)?,
        CmpOp::In => contains(b, a)?,
        CmpOp::NotIn => !contains(b, a)?,
    })
}

/// Numbers by value: 1 == 1.0 == True.
pub fn number(x: &Value) -> Option<f64> {
    match x {
        Value::Bool(b) => Some(f64::from(*b)),
        Value::Int(n) => Some(*n as f64),
        Value::Float(x) => Some(*x),
        _ => None,
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    let all = |a: &[Node], b: &[Node]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(&a.value, &b.value));
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => all(a, b),
        (Value::Dict(a), Value::Dict(b)) => {
            let same = |(key, node): &(String, Node)| {
                b.iter().any(|(other, at)| key == other && equal(&node.value, &at.value))
            };
            a.len() == b.len() && a.iter().all(same)
        }
        (Value::Str(a), Value::Str(b)) => a == b,
        (Value::None, Value::None) => true,
        (a, b) => number(a).is_some() && number(a) == number(b),
    }
}

pub fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Str(a), Value::Str(b)) => Some(a.cmp(b)),
        (a, b) => number(a)?.partial_cmp(&number(b)?),
    }
}

/// `is` asks for identity, which only these have for sure.
fn same(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::None, Value::None) => Ok(true),
        (Value::None | Value::Bool(_), _) | (_, Value::None | Value::Bool(_)) => Ok(false),
        _ => Err("is compares identity; write == for equality".into()),
    }
}

fn contains(all: &Value, one: &Value) -> Result<bool, String> {
    match (all, one) {
        (Value::List(items) | Value::Tuple(items), one) => Ok(items.iter().any(|node| equal(&node.value, one))),
        (Value::Dict(entries), Value::Str(one)) => Ok(entries.iter().any(|(key, _)| key == one)),
        (Value::Str(all), Value::Str(one)) => Ok(all.contains(one.as_str())),
        (all, one) => Err(format!("in cannot look for {} in {}", one.kind(), all.kind())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_divide_as_in_python() {
        let cases = [(7, 2, 3, 1), (-7, 2, -4, 1), (7, -2, -4, -1), (-7, -2, 3, -1), (6, 3, 2, 0), (-6, 3, -2, 0)];
        for (a, b, floor, rest) in cases {
            assert_eq!(ints(Operator::FloorDiv, a, b), Ok(Value::Int(floor)), "{a} // {b}");
            assert_eq!(ints(Operator::Mod, a, b), Ok(Value::Int(rest)), "{a} % {b}");
            assert_eq!(floats(Operator::FloorDiv, a as f64, b as f64), Ok(Value::Float(floor as f64)), "{a} // {b}");
            assert_eq!(floats(Operator::Mod, a as f64, b as f64), Ok(Value::Float(rest as f64)), "{a} % {b}");
        }
    }

    #[test]
    fn the_edges_of_64_bits_are_errors_not_panics() {
        use Operator::*;
        let ops = [Add, Sub, Mult, Div, Mod, Pow, LShift, RShift, BitOr, BitXor, BitAnd, FloorDiv, MatMult];
        let edges = [i64::MIN, i64::MIN + 1, -64, -1, 0, 1, 2, 62, 63, 64, i64::MAX];
        for op in ops {
            for a in edges {
                for b in edges {
                    let _ = ints(op, a, b);
                    let _ = floats(op, a as f64, b as f64);
                }
            }
        }
        assert!(ints(Operator::Add, i64::MAX, 1).is_err());
        assert!(ints(Operator::FloorDiv, i64::MIN, -1).is_err());
        assert!(ints(Operator::Pow, 9, 387_420_489).is_err());
        assert!(unary(UnaryOp::USub, &Value::Int(i64::MIN)).is_err());
        assert_eq!(ints(Operator::LShift, 1, 20), Ok(Value::Int(1 << 20)));
        assert_eq!(ints(Operator::Pow, -1, i64::MAX), Err(too_large()));
    }
}
