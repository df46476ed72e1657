//! Misuse does not compile: each file in `tests/compile_fail/` must be refused by the compiler, with the error beside it.

#[test]
fn misuse_does_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
