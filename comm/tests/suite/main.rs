//! The engines by their contract: [`engines`] one operation at a time, [`programs`] many, [`faults`] what goes wrong.
#![allow(dead_code, reason = "the tables are for `tests/processes`")]

/// Functions of an engine, as tests of those in this process, and as a table for those that need more.
#[macro_export]
macro_rules! properties {
    ($($name:ident)*) => {
        pub const PROPERTIES: &[(&str, fn(Engine))] = &[$((stringify!($name), $name)),*];
        #[cfg(test)]
        mod tests {
            use $crate::ranks::{ENGINES, within};
            $(#[test]
            fn $name() {
                within(super::LIMIT, || ENGINES.into_iter().for_each(super::$name));
            })*
        }
    };
}

mod engines;
mod faults;
mod numbers;
mod programs;
mod ranks;
