//! The macros that tests are written in.

/// Makes the module's table of tests out of the names of its functions. The compiler reports a
/// function that is not in the table as dead code.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this module.
        pub const TESTS: &[crate::support::harness::Test] =
            &[$(crate::support::harness::Test { name: concat!(module_path!(), "::", stringify!($name)), run: $name }),*];
    };
}

/// Ends the test as skipped; the harness prints the reason.
macro_rules! skip {
    ($($reason:tt)*) => { crate::support::harness::skip(format!($($reason)*)) };
}

/// Skips the test where the suite runs another runtime than hull; the reason says why the test
/// could not be proved on runc.
macro_rules! only_hull {
    ($($reason:tt)*) => {
        if !crate::support::runtime::drives_hull() {
            skip!("for hull only: {}", format!($($reason)*));
        }
    };
}

/// Asserts that a text contains another one; prints both otherwise.
macro_rules! assert_has {
    ($text:expr, $part:expr) => {{
        let (text, part) = (&$text, &$part);
        assert!(text.contains(&part[..]), "{part:?} is not in:\n{text}");
    }};
}
