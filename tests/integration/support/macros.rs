//! The words that tests are written in.

/// Makes the module's table of tests out of the names of its functions. A function that is not in
/// the table is dead code, and the compiler says so.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this module.
        pub const TESTS: &[crate::support::harness::Test] =
            &[$(crate::support::harness::Test { name: concat!(module_path!(), "::", stringify!($name)), run: $name }),*];
    };
}

/// Ends the test as skipped, with its reason printed.
macro_rules! skip {
    ($($reason:tt)*) => { crate::support::harness::skip(format!($($reason)*)) };
}

/// Skips the test where another runtime is driven in hull's place; the reason says why the test
/// could not be proved on runc.
macro_rules! only_hull {
    ($($reason:tt)*) => {
        if !crate::support::runtime::drives_hull() {
            skip!("for hull alone: {}", format!($($reason)*));
        }
    };
}

/// Asserts that a text contains another, and prints both where it does not.
macro_rules! assert_has {
    ($text:expr, $part:expr) => {{
        let (text, part) = (&$text, &$part);
        assert!(text.contains(&part[..]), "{part:?} is not in:\n{text}");
    }};
}
