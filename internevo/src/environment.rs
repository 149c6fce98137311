//! The only place that reads environment variables; everyone else is handed what they need.

/// What is not Unicode is shown as far as it is, by the error of whoever wanted something else.
pub fn var(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}
