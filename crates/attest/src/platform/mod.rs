//! What is particular to one kind of hardware: reading and judging its quotes.

pub mod tdx;
