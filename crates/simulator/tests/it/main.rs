//! The simulator against independent verifiers.

mod independent;
mod program;
mod quotes;
mod servers;
mod verifier;
