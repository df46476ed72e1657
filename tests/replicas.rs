//! Replicas as operators run them: real processes, onboarded one from the other, killed and started again.

mod replica_cases;
mod support;
