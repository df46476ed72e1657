//! The simulator against verifiers that are not its own.

mod independent;
mod program;
mod quotes;
mod servers;
mod verifier;
