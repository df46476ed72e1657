//! The simulator against independent verifiers.

mod independent;
mod program;
mod quotes;
mod servers;
mod stored_collateral;
mod verifier;
